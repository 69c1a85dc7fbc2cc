/** What a prebuilt addon is checked for: each fault is planted once, and must be named. */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";

import { describe, expect, test } from "vitest";

import { appleLibraries } from "../../scripts/prebuild/apple-stubs.js";
import { linuxFaults, macFaults } from "../../scripts/prebuild/checks.js";
import { readElf } from "../../scripts/prebuild/elf.js";
import { readMachO } from "../../scripts/prebuild/mach-o.js";
import { root } from "../../scripts/sources.js";

type Elf = ReturnType<typeof readElf>;
type MachO = ReturnType<typeof readMachO>;

const metal = "/System/Library/Frameworks/Metal.framework/Versions/A/Metal";

const mac: MachO = {
  cpu: "arm64",
  type: "dylib",
  minimumOs: "13.0",
  libraries: ["/usr/lib/libSystem.B.dylib", ...Object.keys(appleLibraries)],
  undefined: [
    { name: "napi_create_function", library: "" },
    { name: "MTLCreateSystemDefaultDevice", library: metal },
    { name: "memcpy", library: "/usr/lib/libSystem.B.dylib" },
  ],
  signature: "adhoc",
};

const linux: Elf = {
  cpu: "x64",
  libraries: ["libc.so.6", "libm.so.6", "ld-linux-x86-64.so.2"],
  undefined: ["napi_create_function", "memcpy"],
  glibc: "2.28",
};

const withSymbol = (name: string, library = ""): MachO => ({
  ...mac,
  undefined: [...mac.undefined, { name, library }],
});

describe("a macOS addon", () => {
  test("as it should be has no faults", () => {
    expect(macFaults(mac)).toEqual([]);
  });

  test.each<[MachO, string]>([
    [{ ...mac, cpu: "x64" }, "is for x64, not arm64"],
    [{ ...mac, minimumOs: "14.0" }, "needs macOS 14.0"],
    [{ ...mac, signature: "none" }, "is signed: none, not ad hoc"],
    [
      { ...mac, libraries: ["/usr/lib/libc++.1.dylib"] },
      "needs the library /usr/lib/libc++.1.dylib",
    ],
    [{ ...mac, libraries: ["/usr/lib/libobjc.A.dylib"] }, "does not load /System/Library"],
    [withSymbol("MTLCopyAllDevices", metal), `needs MTLCopyAllDevices of ${metal}`],
    [withSymbol("MTLCreateSystemDefaultDevise"), "needs MTLCreateSystemDefaultDevise of whatever"],
    [withSymbol("node_api_get_module_file_name"), "which Node-API 8 does not have"],
    [withSymbol("napi_create_external_buffer"), "uses napi_create_external_buffer"],
    [withSymbol("uv_async_send"), "needs uv_async_send"],
    [{ ...mac, undefined: [] }, "asks nothing of Node-API"],
  ])("with a fault: %#", (file, fault) => {
    expect(macFaults(file).join("\n")).toContain(fault);
  });

  test("is read from its bytes", () => {
    expect(readMachO(machO())).toEqual({
      cpu: "arm64",
      type: "dylib",
      minimumOs: "13.2",
      libraries: ["/usr/lib/libz.dylib"],
      undefined: [
        { name: "inflate", library: "/usr/lib/libz.dylib" },
        { name: "napi_ok", library: "" },
      ],
      signature: "adhoc",
    });
    expect(() => readMachO(Buffer.from("no such file"))).toThrow("not a thin 64-bit Mach-O");
  });
});

describe("a Linux addon", () => {
  test("as it should be has no faults", () => {
    expect(linuxFaults(linux, "x64")).toEqual([]);
  });

  test.each<[Elf, string]>([
    [{ ...linux, cpu: "arm64" }, "is for arm64, not x64"],
    [{ ...linux, libraries: ["libstdc++.so.6"] }, "needs the library libstdc++.so.6"],
    [{ ...linux, glibc: "2.34" }, "needs glibc 2.34, newer than 2.28"],
    [{ ...linux, undefined: ["napi_create_function", "_ZN2v85Value"] }, "_ZN2v85Value"],
  ])("with a fault: %#", (file, fault) => {
    expect(linuxFaults(file, "x64").join("\n")).toContain(fault);
  });

  const built = join(root, "build/Release/subbit.node");
  test.skipIf(process.platform !== "linux" || !existsSync(built))(
    "built for this machine alone leans on its libraries, and is told so",
    () => {
      const file = readElf(readFileSync(built));
      expect(file.undefined).toContain("napi_create_function");
      expect(linuxFaults(file, file.cpu).join("\n")).toContain("needs the library libstdc++");
    },
  );
});

/** A Mach-O file with one library, three symbols and a signature. */
function machO(): Buffer {
  const name = Buffer.from("/usr/lib/libz.dylib\0\0\0\0\0");
  const strings = Buffer.from("\0_inflate\0_napi_ok\0_ours\0");
  const commands = 24 + name.length + 24 + 24 + 16;
  const symbols = 32 + commands;
  const symbol = (at: number, type: number, description: number) => {
    const entry = Buffer.alloc(16);
    entry.writeUInt32LE(at, 0);
    entry.writeUInt8(type, 4);
    entry.writeUInt16LE(description, 6);
    return entry;
  };
  const table = [symbol(1, 1, 1 << 8), symbol(10, 1, 0xfe00), symbol(19, 0x0f, 0)];
  const signatureAt = symbols + 48 + strings.length;
  const words = (...values: number[]) => {
    const out = Buffer.alloc(4 * values.length);
    values.forEach((value, i) => {
      out.writeUInt32LE(value >>> 0, 4 * i);
    });
    return out;
  };
  const big = (...values: number[]) => words(...values).swap32();
  return Buffer.concat([
    words(0xfeedfacf, 0x0100000c, 0, 6, 4, commands, 0, 0),
    words(0xc, 24 + name.length, 24, 0, 0, 0),
    name,
    words(0x32, 24, 1, (13 << 16) | (2 << 8), 0, 0),
    words(0x2, 24, symbols, 3, symbols + 48, strings.length),
    words(0x1d, 16, signatureAt, 36),
    ...table,
    strings,
    big(0xfade0cc0, 36, 1, 0, 20),
    big(0xfade0c02, 16, 0, 0x20002),
  ]);
}
