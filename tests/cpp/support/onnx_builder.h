// Tiny ONNX models for tests: just enough of the format's protobuf encoding, written by hand.
// Field numbers are those of onnx.proto (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto).
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "ort/value.h"

namespace gpt2fast::testing {

// A protobuf message being written: fields are appended in any order.
class Message {
 public:
  Message& integer(uint32_t field, int64_t value) {
    varint(uint64_t{field} << 3);
    varint(static_cast<uint64_t>(value));
    return *this;
  }
  Message& number(uint32_t field, float value) {
    varint(uint64_t{field} << 3 | 5);
    const auto bits = std::bit_cast<uint32_t>(value);
    for (int shift = 0; shift < 32; shift += 8) bytes_.push_back(static_cast<char>(bits >> shift));
    return *this;
  }
  Message& bytes(uint32_t field, std::string_view value) {
    varint(uint64_t{field} << 3 | 2);
    varint(value.size());
    bytes_.append(value);
    return *this;
  }
  Message& message(uint32_t field, const Message& value) { return bytes(field, value.bytes_); }
  const std::string& encoded() const { return bytes_; }

 private:
  void varint(uint64_t value) {
    for (; value >= 0x80; value >>= 7) bytes_.push_back(static_cast<char>(value | 0x80));
    bytes_.push_back(static_cast<char>(value));
  }

  std::string bytes_;
};

// A node of domain "gpt2fast", or of ONNX itself when `domain` is empty.
class Node {
 public:
  Node(std::string_view type, const std::vector<std::string>& inputs, std::string_view output,
       std::string_view domain = "gpt2fast")
      : Node(type, inputs, std::vector{std::string(output)}, domain) {}
  Node(std::string_view type, const std::vector<std::string>& inputs, const std::vector<std::string>& outputs,
       std::string_view domain = "gpt2fast") {
    for (const std::string& input : inputs) message_.bytes(1, input);
    for (const std::string& output : outputs) message_.bytes(2, output);
    message_.bytes(3, outputs.front() + "_node").bytes(4, type).bytes(7, domain);
  }
  // Instead of the name that it has from its output: of a field's values, the last counts.
  Node& named(std::string_view name) {
    message_.bytes(3, name);
    return *this;
  }
  Node& set(std::string_view name, int64_t value) {
    message_.message(5, Message().bytes(1, name).integer(3, value).integer(20, 2));
    return *this;
  }
  Node& set(std::string_view name, float value) {
    message_.message(5, Message().bytes(1, name).number(2, value).integer(20, 1));
    return *this;
  }
  const Message& message() const { return message_; }

 private:
  Message message_;
};

class Model {
 public:
  static constexpr int64_t kAny = -1;  // a dimension of any size

  Model() { graph_.bytes(2, "test"); }

  Model& node(const Node& node) {
    graph_.message(1, node.message());
    return *this;
  }
  Model& input(std::string_view name, ElementType type, const std::vector<int64_t>& shape) {
    graph_.message(11, value_info(name, type, shape));
    return *this;
  }
  Model& output(std::string_view name, ElementType type, const std::vector<int64_t>& shape) {
    graph_.message(12, value_info(name, type, shape));
    return *this;
  }
  // A weight inside the model file.
  template <typename T>
  Model& weight(std::string_view name, ElementType type, const std::vector<int64_t>& shape,
                std::span<const T> data) {
    const std::string_view raw(reinterpret_cast<const char*>(data.data()), data.size_bytes());
    graph_.message(5, tensor(name, type, shape).bytes(9, raw));
    return *this;
  }
  // A weight in another file beside the model.
  Model& external_weight(std::string_view name, ElementType type, const std::vector<int64_t>& shape,
                         std::string_view file, int64_t offset, int64_t bytes) {
    Message message = tensor(name, type, shape);
    const auto entry = [&](std::string_view key, std::string_view value) {
      message.message(13, Message().bytes(1, key).bytes(2, value));
    };
    entry("location", file);
    entry("offset", std::to_string(offset));
    entry("length", std::to_string(bytes));
    graph_.message(5, message.integer(14, 1));
    return *this;
  }

  std::string encoded() const {
    return Message()
        .integer(1, 9)
        .message(7, graph_)
        .message(8, Message().bytes(1, "").integer(2, 17))
        .message(8, Message().bytes(1, "gpt2fast").integer(2, 1))
        .encoded();
  }

 private:
  static Message tensor(std::string_view name, ElementType type, const std::vector<int64_t>& shape) {
    Message message;
    for (const int64_t size : shape) message.integer(1, size);
    message.integer(2, type).bytes(8, name);
    return message;
  }
  static Message value_info(std::string_view name, ElementType type, const std::vector<int64_t>& shape) {
    Message dimensions;
    for (const int64_t size : shape) {
      dimensions.message(1, size == kAny ? Message() : Message().integer(1, size));
    }
    return Message().bytes(1, name).message(
        2, Message().message(1, Message().integer(1, type).message(2, dimensions)));
  }

  Message graph_;
};

}  // namespace gpt2fast::testing
