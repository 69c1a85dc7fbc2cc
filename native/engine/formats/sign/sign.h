// Term kind `sign`: see sign.cc.
#pragma once

#include "formats/term.h"

namespace subbit {

const TermKind& sign_term();

}  // namespace subbit
