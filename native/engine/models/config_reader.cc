// Checked access to config.json.
#include "models/config_reader.h"

#include "base/error.h"

namespace subbit {
namespace {

// Quotients of two such numbers stay finite, and each is a normal float: no field of a config can
// turn the logits into NaNs.
constexpr double kLeastPositive = 1e-30;
constexpr double kMostPositive = 1e30;

}  // namespace

ConfigReader::ConfigReader(const Json& config, std::string_view where)
    : config_(config), where_(where) {
  if (config.if_object() == nullptr) {
    throw Error(ErrorCode::kCorruptFile, "the config of " + where_ + " is not an object",
                {{"file", where_}});
  }
}

void ConfigReader::corrupt(std::string_view field, const std::string& expected,
                           const Json* actual) const {
  const std::string name(field);
  throw Error(ErrorCode::kCorruptFile, "field " + name + " of the config of " + where_,
              {{"file", where_},
               {"field", name},
               {"expected", expected},
               {"actual", actual == nullptr ? "nothing" : actual->dump().substr(0, 100)}});
}

void ConfigReader::unsupported(std::string_view field, const std::string& expected,
                               const std::string& actual) const {
  const std::string name(field);
  throw Error(ErrorCode::kUnsupportedArch, "field " + name + " of the config of " + where_,
              {{"file", where_},
               {"field", name},
               {"expected", expected},
               {"actual", actual.substr(0, 100)}});
}

const Json* ConfigReader::find(std::string_view field) const {
  const Json* value = config_.find(field);
  return value == nullptr || value->is_null() ? nullptr : value;
}

int64_t ConfigReader::integer(std::string_view field, IntRange range) const {
  const Json* value = find(field);
  const int64_t* number = value == nullptr ? nullptr : value->if_int();
  if (number == nullptr || *number < range.least || *number > range.most) {
    corrupt(field,
            "an integer from " + std::to_string(range.least) + " to " + std::to_string(range.most),
            value);
  }
  return *number;
}

int64_t ConfigReader::integer_or(std::string_view field, IntRange range, int64_t absent) const {
  return find(field) == nullptr ? absent : integer(field, range);
}

double ConfigReader::positive(std::string_view field) const {
  const Json* value = find(field);
  double number = 0;
  const bool is_number = value != nullptr && value->get_number(number);
  if (!is_number || !(number >= kLeastPositive && number <= kMostPositive)) {
    corrupt(field, "a number from 1e-30 to 1e30", value);
  }
  return number;
}

double ConfigReader::positive_or(std::string_view field, double absent) const {
  return find(field) == nullptr ? absent : positive(field);
}

bool ConfigReader::boolean_or(std::string_view field, bool absent) const {
  const Json* value = find(field);
  if (value == nullptr) return absent;
  const bool* flag = value->if_bool();
  if (flag == nullptr) corrupt(field, "true or false", value);
  return *flag;
}

std::string ConfigReader::string_or(std::string_view field, std::string_view absent) const {
  const Json* value = find(field);
  if (value == nullptr) return std::string(absent);
  const std::string* text = value->if_string();
  if (text == nullptr) corrupt(field, "a string", value);
  return *text;
}

std::vector<int32_t> ConfigReader::token_ids(std::string_view field) const {
  const Json* value = find(field);
  std::vector<int32_t> ids;
  if (value == nullptr) return ids;
  const auto add = [&](const Json& one) {
    const int64_t* id = one.if_int();
    if (id == nullptr || *id < 0 || *id > std::numeric_limits<int32_t>::max()) {
      corrupt(field, "a token id or a list of them", value);
    }
    ids.push_back(static_cast<int32_t>(*id));
  };
  if (const JsonArray* list = value->if_array()) {
    for (const Json& one : *list) add(one);
  } else {
    add(*value);
  }
  return ids;
}

}  // namespace subbit
