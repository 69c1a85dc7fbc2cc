// Term kind `factored`: see factored.cc.
#pragma once

#include "formats/term.h"

namespace subbit {

const TermKind& factored_term();

}  // namespace subbit
