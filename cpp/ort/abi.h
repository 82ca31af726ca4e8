// The part of ONNX Runtime's C interface that we use, declared in our own words, so that building needs none
// of its headers. The function table is append-only: a published entry keeps its place for ever.
// tests/cpp/ort/abi_check.cpp compares every place and value below with the official header.
#pragma once

#include <cstddef>
#include <cstdint>

namespace gpt2fast::abi {

// The lowest version of the table that has every entry below but the last. A library offers every version up
// to its own.
inline constexpr uint32_t kApiVersion = 17;
// The version that has the last entry too.
inline constexpr uint32_t kTensorSizeApiVersion = 23;

// Objects of the library, only ever seen through pointers.
struct Status;
struct Env;
struct Session;
struct SessionOptions;
struct RunOptions;
struct IoBinding;
struct Value;
struct MemoryInfo;
struct TypeInfo;
struct TensorInfo;
struct KernelInfo;
struct KernelContext;
struct CustomOpDomain;
struct ShapeInferContext;
struct CustomOp;  // ours, see below

enum ErrorCode : int { kFail = 1, kInvalidArgument = 2 };
enum LoggingLevel : int { kLogFatal = 4 };
enum GraphOptimizationLevel : int { kOptimizeNothing = 0 };
enum AllocatorType : int { kDeviceAllocator = 0 };
enum MemoryType : int { kDefaultMemory = 0 };
enum ElementType : int { kUndefined = 0, kFloat32 = 1, kUInt8 = 2, kInt32 = 6, kInt64 = 7, kFloat16 = 10 };
enum Characteristic : int { kRequired = 0, kOptional = 1 };

// How the library allocates: callbacks whose argument is the struct itself.
struct Allocator {
  uint32_t version = kApiVersion;
  void* (*Alloc)(Allocator*, size_t bytes) = nullptr;
  void (*Free)(Allocator*, void* memory) = nullptr;
  const MemoryInfo* (*Info)(const Allocator*) = nullptr;
};

// Entries keep the library's names, so that they can be found in its documentation. `unused_N` stands for the
// entries from place N on that we do not call.
struct Api {
  Status* (*CreateStatus)(ErrorCode code, const char* message);
  void* unused_1[1];
  const char* (*GetErrorMessage)(const Status* status);
  Status* (*CreateEnv)(LoggingLevel level, const char* log_id, Env** out);
  void* unused_4[2];
  Status* (*DisableTelemetryEvents)(const Env* env);
  void* unused_7[1];
  Status* (*CreateSessionFromArray)(const Env* env, const void* model, size_t bytes,
                                    const SessionOptions* options, Session** out);
  void* unused_9[1];
  Status* (*CreateSessionOptions)(SessionOptions** out);
  void* unused_11[6];
  Status* (*DisableMemPattern)(SessionOptions* options);
  void* unused_18[5];
  Status* (*SetSessionGraphOptimizationLevel)(SessionOptions* options, GraphOptimizationLevel level);
  Status* (*SetIntraOpNumThreads)(SessionOptions* options, int threads);
  Status* (*SetInterOpNumThreads)(SessionOptions* options, int threads);
  Status* (*CreateCustomOpDomain)(const char* domain, CustomOpDomain** out);
  Status* (*CustomOpDomain_Add)(CustomOpDomain* domain, const CustomOp* op);
  Status* (*AddCustomOpDomain)(SessionOptions* options, CustomOpDomain* domain);
  void* unused_29[1];
  Status* (*SessionGetInputCount)(const Session* session, size_t* out);
  Status* (*SessionGetOutputCount)(const Session* session, size_t* out);
  Status* (*SessionGetOverridableInitializerCount)(const Session* session, size_t* out);
  Status* (*SessionGetInputTypeInfo)(const Session* session, size_t index, TypeInfo** out);
  Status* (*SessionGetOutputTypeInfo)(const Session* session, size_t index, TypeInfo** out);
  void* unused_35[1];
  Status* (*SessionGetInputName)(const Session* session, size_t index, Allocator* allocator, char** out);
  Status* (*SessionGetOutputName)(const Session* session, size_t index, Allocator* allocator, char** out);
  void* unused_38[11];
  Status* (*CreateTensorWithDataAsOrtValue)(const MemoryInfo* info, void* data, size_t bytes,
                                            const int64_t* shape, size_t rank, ElementType type, Value** out);
  void* unused_50[1];
  Status* (*GetTensorMutableData)(Value* value, void** out);
  void* unused_52[3];
  Status* (*CastTypeInfoToTensorInfo)(const TypeInfo* info, const TensorInfo** out);
  void* unused_56[4];
  Status* (*GetTensorElementType)(const TensorInfo* info, ElementType* out);
  Status* (*GetDimensionsCount)(const TensorInfo* info, size_t* out);
  Status* (*GetDimensions)(const TensorInfo* info, int64_t* dimensions, size_t count);
  void* unused_63[1];
  Status* (*GetTensorShapeElementCount)(const TensorInfo* info, size_t* out);
  Status* (*GetTensorTypeAndShape)(const Value* value, TensorInfo** out);
  void* unused_66[3];
  Status* (*CreateCpuMemoryInfo)(AllocatorType allocator, MemoryType memory, MemoryInfo** out);
  void* unused_70[6];
  Status* (*AllocatorFree)(Allocator* allocator, void* memory);
  void* unused_77[1];
  Status* (*GetAllocatorWithDefaultOptions)(Allocator** out);
  void* unused_79[6];
  Status* (*KernelInfoGetAttribute_float)(const KernelInfo* info, const char* name, float* out);
  Status* (*KernelInfoGetAttribute_int64)(const KernelInfo* info, const char* name, int64_t* out);
  void* unused_87[3];
  Status* (*KernelContext_GetInput)(const KernelContext* context, size_t index, const Value** out);
  Status* (*KernelContext_GetOutput)(KernelContext* context, size_t index, const int64_t* shape, size_t rank,
                                     Value** out);
  void* unused_92[1];
  void (*ReleaseStatus)(Status* status);
  void (*ReleaseMemoryInfo)(MemoryInfo* info);
  void (*ReleaseSession)(Session* session);
  void (*ReleaseValue)(Value* value);
  void* unused_97[1];
  void (*ReleaseTypeInfo)(TypeInfo* info);
  void (*ReleaseTensorTypeAndShapeInfo)(TensorInfo* info);
  void (*ReleaseSessionOptions)(SessionOptions* options);
  void (*ReleaseCustomOpDomain)(CustomOpDomain* domain);
  void* unused_102[28];
  Status* (*AddSessionConfigEntry)(SessionOptions* options, const char* key, const char* value);
  void* unused_131[2];
  Status* (*RunWithBinding)(Session* session, const RunOptions* options, const IoBinding* binding);
  Status* (*CreateIoBinding)(Session* session, IoBinding** out);
  void (*ReleaseIoBinding)(IoBinding* binding);
  Status* (*BindInput)(IoBinding* binding, const char* name, const Value* value);
  Status* (*BindOutput)(IoBinding* binding, const char* name, const Value* value);
  void* unused_138[12];
  Status* (*AddInitializer)(SessionOptions* options, const char* name, const Value* value);
  void* unused_151[25];
  Status* (*RegisterAllocator)(Env* env, Allocator* allocator);
  void* unused_177[53];
  Status* (*KernelInfo_GetInputCount)(const KernelInfo* info, size_t* out);
  Status* (*KernelInfo_GetOutputCount)(const KernelInfo* info, size_t* out);
  Status* (*KernelInfo_GetInputName)(const KernelInfo* info, size_t index, char* out, size_t* size);
  Status* (*KernelInfo_GetOutputName)(const KernelInfo* info, size_t index, char* out, size_t* size);
  Status* (*KernelInfo_GetInputTypeInfo)(const KernelInfo* info, size_t index, TypeInfo** out);
  void* unused_235[9];
  Status* (*KernelInfo_GetNodeName)(const KernelInfo* info, char* out, size_t* size);
  void* unused_245[4];
  Status* (*KernelInfoGetConstantInput_tensor)(const KernelInfo* info, size_t index, int* is_constant,
                                               const Value** out);
  void* unused_250[68];
  Status* (*GetTensorSizeInBytes)(const Value* value, size_t* out);  // from kTensorSizeApiVersion on
};

// What the library's one exported function, OrtGetApiBase, returns.
struct ApiBase {
  const Api* (*GetApi)(uint32_t version);  // null if the library is older
  const char* (*GetVersionString)();
};

// A custom operator as the library calls it: callbacks whose argument is the struct itself, so that a derived
// type can carry more. The null callbacks are optional or have a second version.
struct CustomOp {
  uint32_t version = kApiVersion;
  void* (*CreateKernel)(const CustomOp*, const Api*, const KernelInfo*) = nullptr;
  const char* (*GetName)(const CustomOp*) = nullptr;
  const char* (*GetExecutionProviderType)(const CustomOp*) = nullptr;
  ElementType (*GetInputType)(const CustomOp*, size_t index) = nullptr;
  size_t (*GetInputTypeCount)(const CustomOp*) = nullptr;
  ElementType (*GetOutputType)(const CustomOp*, size_t index) = nullptr;
  size_t (*GetOutputTypeCount)(const CustomOp*) = nullptr;
  void (*KernelCompute)(void* kernel, KernelContext*) = nullptr;
  void (*KernelDestroy)(void* kernel) = nullptr;
  Characteristic (*GetInputCharacteristic)(const CustomOp*, size_t index) = nullptr;
  Characteristic (*GetOutputCharacteristic)(const CustomOp*, size_t index) = nullptr;
  MemoryType (*GetInputMemoryType)(const CustomOp*, size_t index) = nullptr;
  int (*GetVariadicInputMinArity)(const CustomOp*) = nullptr;
  int (*GetVariadicInputHomogeneity)(const CustomOp*) = nullptr;
  int (*GetVariadicOutputMinArity)(const CustomOp*) = nullptr;
  int (*GetVariadicOutputHomogeneity)(const CustomOp*) = nullptr;
  Status* (*CreateKernelV2)(const CustomOp*, const Api*, const KernelInfo*, void** kernel) = nullptr;
  Status* (*KernelComputeV2)(void* kernel, KernelContext*) = nullptr;
  Status* (*InferOutputShapeFn)(const CustomOp*, ShapeInferContext*) = nullptr;
  int (*GetStartVersion)(const CustomOp*) = nullptr;
  int (*GetEndVersion)(const CustomOp*) = nullptr;
  size_t (*GetMayInplace)(int** input_index, int** output_index) = nullptr;
  void (*ReleaseMayInplace)(int* input_index, int* output_index) = nullptr;
  size_t (*GetAliasMap)(int** input_index, int** output_index) = nullptr;
  void (*ReleaseAliasMap)(int* input_index, int* output_index) = nullptr;
};

}  // namespace gpt2fast::abi
