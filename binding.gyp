# The same targets as CMakeLists.txt for machines without CMake: node-gyp builds the addon, and
# with -Dsubbit_tests=1 the engine's tests. Files and flags come from native/sources.json.
{
  "variables": {
    "subbit_tests%": 0,
    # A process that has not loaded CoreGraphics is given no default Metal device.
    "apple_libraries": [
      "-framework Accelerate", "-framework Metal", "-framework CoreGraphics", "-lobjc"
    ]
  },
  "target_defaults": {
    # node-gyp's defaults (C++17, no exceptions, no RTTI) are for Node itself, not for addons.
    "cflags!": ["-fno-exceptions", "-O2", "-O3"],
    "cflags_cc!": ["-fno-exceptions", "-fno-rtti", "-std=gnu++17", "-std=gnu++20"],
    "cflags_cc": [
      "-std=c++20",
      "<!@(node -p \"require('./native/sources.json').flags.join(' ')\")"
    ],
    "defines": ["NDEBUG"],
    "include_dirs": ["native/engine", "."],
    "conditions": [
      # GCC 12 sees overlaps of 2^63 bytes in plain concatenations of std::string (bug 105651).
      ["OS=='linux'", { "cflags_cc": ["-Wno-restrict"] }]
    ],
    "xcode_settings": {
      "GCC_ENABLE_CPP_EXCEPTIONS": "YES",
      "GCC_ENABLE_CPP_RTTI": "YES",
      "CLANG_CXX_LANGUAGE_STANDARD": "c++20",
      "CLANG_CXX_LIBRARY": "libc++",
      "GCC_OPTIMIZATION_LEVEL": "3",
      "MACOSX_DEPLOYMENT_TARGET": "13.0",
      "OTHER_CPLUSPLUSFLAGS": [
        "<!@(node -p \"require('./native/sources.json').flags.join(' ')\")"
      ]
    }
  },
  "targets": [
    {
      "target_name": "subbit_engine",
      "type": "static_library",
      "sources": ["<!@(node -p \"require('./native/sources.json').engine.join(' ')\")"],
      "conditions": [
        ["OS=='mac'", {
          "sources": ["<!@(node -p \"require('./native/sources.json').metal.join(' ')\")"],
          "actions": [
            {
              "action_name": "shaders",
              "inputs": ["scripts/build-shaders.js"],
              "outputs": ["<(INTERMEDIATE_DIR)/shader_files.cc"],
              "process_outputs_as_sources": 1,
              "action": ["node", "scripts/build-shaders.js", "<(INTERMEDIATE_DIR)/shader_files.cc"]
            }
          ]
        }]
      ]
    },
    {
      "target_name": "subbit",
      "type": "loadable_module",
      "dependencies": ["subbit_engine"],
      "sources": ["<!@(node -p \"require('./native/sources.json').binding.join(' ')\")"],
      "include_dirs": ["<!(node -p \"require('node-addon-api').include_dir\")"],
      "defines": ["<!@(node -p \"require('./native/sources.json').addon_defines.join(' ')\")"],
      "conditions": [
        ["OS=='mac'", { "libraries": ["<@(apple_libraries)"] }],
        ["OS!='mac'", { "ldflags": ["-pthread"] }]
      ]
    }
  ],
  "conditions": [
    ["subbit_tests==1", {
      "targets": [
        {
          "target_name": "engine_tests",
          "type": "executable",
          "dependencies": ["subbit_engine"],
          "sources": ["<!@(node -p \"require('./native/sources.json').tests.join(' ')\")"],
          "include_dirs": ["test"],
          "defines": ["SUBBIT_TEST_ROOT=\"<(module_root_dir)/test\""],
          "conditions": [
            ["OS=='mac'", {
              "libraries": ["<@(apple_libraries)"]
            }],
            ["OS!='mac'", {
              "ldflags": ["-pthread"],
              "sources": [
                "<!@(node -p \"require('./native/sources.json').metal.join(' ')\")"
              ],
              "actions": [
                {
                  "action_name": "shaders",
                  "inputs": ["scripts/build-shaders.js"],
                  "outputs": ["<(INTERMEDIATE_DIR)/shader_files.cc"],
                  "process_outputs_as_sources": 1,
                  "action": [
                    "node", "scripts/build-shaders.js", "<(INTERMEDIATE_DIR)/shader_files.cc"
                  ]
                }
              ]
            }]
          ]
        }
      ]
    }]
  ]
}
