// A client of a bundle in C++: ONNX Runtime for the model, OpenCV for pictures, OpenSSL for SHA-256, nlohmann/json.
//
//     rgbt_client BUNDLE RGB.jpg THERMAL.png      the answer as JSON; "-" in place of a picture: that sensor is absent
//
// The answer is the one that client.py gives; what is wrong is said in one line, with exit code 1. The hash of every
// file is checked first; the rest is what deploy/README.md says under "Using a bundle without this package". Thermal
// files must hold the bundle's unit, upright and on RGB's field of view. Not here: replaying golden.npz (client.py
// does), which in C++ takes a reader of ZIP and .npy such as cnpy.

#include <onnxruntime_cxx_api.h>
#include <openssl/evp.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace fs = std::filesystem;
using nlohmann::json;

constexpr int kNewestSchema = 2;
constexpr double kRgbPadding = 114;
constexpr float kLeastScore = 0.3f;

std::string read_file(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  // A folder opens too, and fails only when it is read.
  if (!file || fs::is_directory(path)) throw std::runtime_error(path.string() + ": not a file that can be read");
  return {std::istreambuf_iterator<char>(file), {}};
}

std::string sha256(const std::string& content) {
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned int size = 0;
  if (EVP_Digest(content.data(), content.size(), digest.data(), &size, EVP_sha256(), nullptr) != 1)
    throw std::runtime_error("OpenSSL cannot compute SHA-256");
  std::string text;
  char two[3];
  for (unsigned int i = 0; i < size; ++i) {
    std::snprintf(two, sizeof two, "%02x", digest[i]);
    text += two;
  }
  return text;
}

// bundle.json, after the hash of every file held. Its own digest is taken with 64 zeros in its place.
json read_info(const fs::path& bundle) {
  const std::string raw = read_file(bundle / "bundle.json");
  const json info = json::parse(raw);
  if (info.at("schema_version").get<int>() > kNewestSchema)
    throw std::runtime_error(bundle.string() + ": its schema is newer than this client");
  for (const auto& [name, digest] : info.at("files").items()) {
    const std::string expected = digest.get<std::string>();
    std::string content = name == "bundle.json" ? raw : read_file(bundle / name);
    if (name == "bundle.json") content.replace(content.find(expected), expected.size(), std::string(64, '0'));
    if (sha256(content) != expected)
      throw std::runtime_error((bundle / name).string() + ": was changed after export; copy the bundle again");
  }
  return info;
}

cv::Mat read_picture(const std::string& path, int flags) {
  if (path == "-") return {};
  const std::string content = read_file(path);
  const cv::Mat bytes(1, int(content.size()), CV_8U, const_cast<char*>(content.data()));
  const cv::Mat image = content.empty() ? cv::Mat() : cv::imdecode(bytes, flags);
  if (image.empty()) throw std::runtime_error(path + ": not a picture that can be read");
  return image;
}

cv::Size size_of(const json& height_width) { return {height_width.at(1).get<int>(), height_width.at(0).get<int>()}; }

std::string text(cv::Size size) { return std::to_string(size.width) + "×" + std::to_string(size.height); }

void check_size(const std::string& name, const cv::Mat& image, cv::Size expected) {
  if (image.size() != expected)
    throw std::runtime_error(name + " is " + text(image.size()) + ", expected " + text(expected));
}

// The frame's part of the canvas: top left, one scale for both axes. nearbyint rounds halves to even, as Python does.
double fit(cv::Size frame, cv::Size canvas, cv::Size& content) {
  const double scale = std::min(double(canvas.height) / frame.height, double(canvas.width) / frame.width);
  content = {std::min(canvas.width, int(std::nearbyint(frame.width * scale))),
             std::min(canvas.height, int(std::nearbyint(frame.height * scale)))};
  return scale;
}

cv::Mat place(const cv::Mat& image, cv::Size content, cv::Size canvas, const cv::Scalar& padding) {
  cv::Mat placed(canvas, image.type(), padding), scaled;
  cv::resize(image, scaled, content, 0, 0, cv::INTER_LINEAR);
  scaled.copyTo(placed(cv::Rect({0, 0}, content)));
  return placed;
}

// Valid pixels never equal 'invalid': where frames do not mark their holes, such pixels move by one step.
void move_off_invalid(cv::Mat& thermal, const json& spec) {
  const double invalid = spec.at("invalid").get<double>();
  if (thermal.depth() == CV_32F)
    thermal.setTo(invalid, ~(cv::abs(thermal) < INFINITY));  // NaN and infinite
  else if (!spec.at("marked").get<bool>() && spec.at("blank").empty())
    thermal.setTo(invalid == 0 ? 1 : invalid - 1, thermal == invalid);
}

struct Feeds {
  cv::Mat rgb, thermal;  // contiguous: uint8 H×W×3 in R, G, B; H×W of the unit's dtype
  std::array<float, 2> present;
  double scale = 1;
  cv::Size frame;  // whose pixels the answer is in
};

Feeds prepare(cv::Mat rgb, cv::Mat thermal, const json& info) {
  const json& inputs = info.at("inputs");
  const json& spec = inputs.at("thermal");
  const std::string unit = spec.at("unit");
  const int type = unit == "intensity8" ? CV_8UC1 : unit == "counts16" ? CV_16UC1 : CV_32FC1;
  const cv::Size rgb_size = size_of(inputs.at("rgb_size")), thermal_size = size_of(inputs.at("thermal_size"));
  const cv::Scalar invalid(spec.at("invalid").get<double>());
  Feeds feeds;
  feeds.present = {rgb.empty() ? 0.f : 1.f, thermal.empty() ? 0.f : 1.f};
  feeds.frame = rgb_size;
  if (rgb.empty() && thermal.empty()) throw std::runtime_error("give a picture of at least one sensor");
  const json& sensors = info.at("sensors");
  if (sensors.size() == 1 && (sensors[0] == "rgb" ? rgb : thermal).empty())
    throw std::runtime_error("the model looks at " + sensors[0].get<std::string>() + " alone; give its picture");
  if (!thermal.empty() && thermal.type() != type)
    throw std::runtime_error("thermal is " + cv::typeToString(thermal.type()) + ", expected " +
                             cv::typeToString(type) + " (" + unit + ")");
  if (!rgb.empty()) cv::cvtColor(rgb, rgb, cv::COLOR_BGR2RGB);
  if (!thermal.empty()) move_off_invalid(thermal, spec);
  if (inputs.at("letterbox").get<bool>()) {
    cv::Size content;
    feeds.frame = rgb.empty() ? thermal.size() : rgb.size();
    feeds.scale = fit(feeds.frame, rgb_size, content);
    if (!rgb.empty()) rgb = place(rgb, content, rgb_size, cv::Scalar::all(kRgbPadding));
    if (!thermal.empty()) {
      cv::Mat hole;
      cv::Mat(thermal == invalid[0]).convertTo(hole, CV_32F, 1 / 255.0);
      thermal = place(thermal, content, rgb_size, invalid);
      // A pixel that was mixed with a hole is one.
      thermal.setTo(invalid, place(hole, content, rgb_size, 1) > 1e-3);
    }
  }
  feeds.rgb = rgb.empty() ? cv::Mat(rgb_size, CV_8UC3, cv::Scalar::all(0)) : rgb;
  feeds.thermal = thermal.empty() ? cv::Mat(thermal_size, type, cv::Scalar::all(0)) : thermal;
  check_size("rgb", feeds.rgb, rgb_size);
  check_size("thermal", feeds.thermal, thermal_size);
  return feeds;
}

Ort::Value answer(Ort::Session& session, Feeds& feeds, const std::string& output) {
  const std::array<std::int64_t, 4> rgb_shape{1, feeds.rgb.rows, feeds.rgb.cols, 3};
  const std::array<std::int64_t, 3> thermal_shape{1, feeds.thermal.rows, feeds.thermal.cols};
  const std::array<std::int64_t, 2> present_shape{1, 2};
  const auto dtype = feeds.thermal.depth() == CV_8U    ? ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8
                     : feeds.thermal.depth() == CV_16U ? ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16
                                                       : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
  const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  std::array<Ort::Value, 3> values{
      Ort::Value::CreateTensor<std::uint8_t>(memory, feeds.rgb.data, feeds.rgb.total() * 3, rgb_shape.data(), 4),
      Ort::Value::CreateTensor(memory, feeds.thermal.data, feeds.thermal.total() * feeds.thermal.elemSize(),
                               thermal_shape.data(), 3, dtype),
      Ort::Value::CreateTensor<float>(memory, feeds.present.data(), 2, present_shape.data(), 2)};
  const std::array<const char*, 3> names{"rgb", "thermal", "present"};
  const char* wanted = output.c_str();
  return std::move(session.Run(Ort::RunOptions{nullptr}, names.data(), values.data(), 3, &wanted, 1).front());
}

json told(const std::string& name, const Ort::Value& value, const Feeds& feeds, const json& classes) {
  const std::vector<std::int64_t> shape = value.GetTensorTypeAndShapeInfo().GetShape();
  json found = json::object();
  if (name == "boxes") {
    found = json::array();
    const float* row = value.GetTensorData<float>();
    for (std::int64_t slot = 0; slot < shape[1] && row[4] >= kLeastScore; ++slot, row += 6) {
      json box = json::array();
      for (int side = 0; side < 4; ++side) box.push_back(row[side] / feeds.scale);
      found.push_back({{"box", box}, {"score", row[4]}, {"class", classes.at(std::size_t(row[5]))}});
    }
  } else if (name == "class_map") {  // the share of each class, of the part of the map that shows the frame
    auto* pixels = const_cast<std::uint8_t*>(value.GetTensorData<std::uint8_t>());
    const int height = int(shape[1]), width = int(shape[2]);
    cv::Size content;
    fit(feeds.frame, {width, height}, content);
    const cv::Mat shown = cv::Mat(height, width, CV_8U, pixels)(cv::Rect({0, 0}, content));
    for (std::size_t kind = 0; kind <= classes.size(); ++kind)
      found[kind ? classes.at(kind - 1).get<std::string>() : "background"] =
          cv::countNonZero(shown == double(kind)) / double(shown.total());
  } else {
    for (std::size_t kind = 0; kind < classes.size(); ++kind)
      found[classes.at(kind).get<std::string>()] = value.GetTensorData<float>()[kind];
  }
  return found;
}

int main(int count, char** words) try {
  if (count != 4) throw std::runtime_error("usage: rgbt_client BUNDLE RGB|- THERMAL|-");
  if (!OrtGetApiBase()->GetApi(ORT_API_VERSION))
    throw std::runtime_error(std::string("libonnxruntime ") + OrtGetApiBase()->GetVersionString() +
                             " is older than the headers that this was built with");
  const fs::path bundle(words[1]);
  const json info = read_info(bundle);
  Feeds feeds = prepare(read_picture(words[2], cv::IMREAD_COLOR), read_picture(words[3], cv::IMREAD_UNCHANGED), info);
  setenv("ORT_DISABLE_TELEMETRY", "1", 0);  // official builds report over the network unless told not to
  Ort::Env env(ORT_LOGGING_LEVEL_ERROR, "rgbt");
  // For CUDA: options.AppendExecutionProvider_CUDA({}), which throws where it does not load. For int8, open the file
  // that info["variants"]["onnxruntime-int8"]["files"][0] names.
  Ort::SessionOptions options;
  Ort::Session session(env, (bundle / "model.onnx").c_str(), options);
  const std::string task = info.at("task");
  // Of segment there is 'confidence' too.
  const std::string name = task == "detect" ? "boxes" : task == "segment" ? "class_map" : "probabilities";
  std::cout << told(name, answer(session, feeds, name), feeds, info.at("classes")).dump() << std::endl;
  return 0;
} catch (const json::exception& error) {
  std::cerr << "rgbt_client: error: " << words[1] << "/bundle.json: " << error.what() << std::endl;
  return 1;
} catch (const std::exception& error) {
  std::cerr << "rgbt_client: error: " << error.what() << std::endl;
  return 1;
}
