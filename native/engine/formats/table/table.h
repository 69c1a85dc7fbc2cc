// Term kind 5, `table`: every run of d = 4, 8 or 16 columns is one of 256 vectors of a shared
// table, chosen by an index byte: 8/d bits a weight. See table.cc for the arithmetic and
// signs/index_matrix.h for the bytes.
#pragma once

#include "formats/term.h"

namespace subbit {

const TermKind& table_term();

}  // namespace subbit
