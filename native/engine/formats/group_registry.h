// Where group-scaled formats are looked up by their width; registry.cc names them.
#pragma once

#include "formats/groups/groups.h"

namespace subbit {

/// How codes of so many bits are stored: 2, 3, 4 or 8. Null for other widths.
const GroupCoding* find_group_coding(int bits);

}  // namespace subbit
