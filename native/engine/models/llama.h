// The Llama family: Llama 1 to 3 and Mistral. See llama.cc.
#pragma once

#include "models/model.h"

namespace subbit {

const Architecture& llama_architecture();
const Architecture& mistral_architecture();

}  // namespace subbit
