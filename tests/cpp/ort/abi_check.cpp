// Compiled only, when the official header is at hand: every place and value in ort/abi.h is the library's
// own.
#include <onnxruntime_c_api.h>

#include <cstddef>

#include "ort/abi.h"

namespace gpt2fast::abi {

#define SAME_PLACE(ours, theirs, member)                                                    \
  static_assert(offsetof(ours, member) == offsetof(theirs, member), #ours "::" #member      \
                                                                          " is at another " \
                                                                          "place")
#define SAME_VALUE(ours, theirs) \
  static_assert(static_cast<int>(ours) == static_cast<int>(theirs), #ours " has another value")

static_assert(kTensorSizeApiVersion <= ORT_API_VERSION);

SAME_PLACE(Api, OrtApi, CreateStatus);
SAME_PLACE(Api, OrtApi, GetErrorMessage);
SAME_PLACE(Api, OrtApi, CreateEnv);
SAME_PLACE(Api, OrtApi, DisableTelemetryEvents);
SAME_PLACE(Api, OrtApi, CreateSessionFromArray);
SAME_PLACE(Api, OrtApi, CreateSessionOptions);
SAME_PLACE(Api, OrtApi, DisableMemPattern);
SAME_PLACE(Api, OrtApi, SetSessionGraphOptimizationLevel);
SAME_PLACE(Api, OrtApi, SetIntraOpNumThreads);
SAME_PLACE(Api, OrtApi, SetInterOpNumThreads);
SAME_PLACE(Api, OrtApi, CreateCustomOpDomain);
SAME_PLACE(Api, OrtApi, CustomOpDomain_Add);
SAME_PLACE(Api, OrtApi, AddCustomOpDomain);
SAME_PLACE(Api, OrtApi, SessionGetInputCount);
SAME_PLACE(Api, OrtApi, SessionGetOutputCount);
SAME_PLACE(Api, OrtApi, SessionGetOverridableInitializerCount);
SAME_PLACE(Api, OrtApi, SessionGetInputTypeInfo);
SAME_PLACE(Api, OrtApi, SessionGetOutputTypeInfo);
SAME_PLACE(Api, OrtApi, SessionGetInputName);
SAME_PLACE(Api, OrtApi, SessionGetOutputName);
SAME_PLACE(Api, OrtApi, CreateTensorWithDataAsOrtValue);
SAME_PLACE(Api, OrtApi, GetTensorMutableData);
SAME_PLACE(Api, OrtApi, CastTypeInfoToTensorInfo);
SAME_PLACE(Api, OrtApi, GetTensorElementType);
SAME_PLACE(Api, OrtApi, GetDimensionsCount);
SAME_PLACE(Api, OrtApi, GetDimensions);
SAME_PLACE(Api, OrtApi, GetTensorShapeElementCount);
SAME_PLACE(Api, OrtApi, GetTensorTypeAndShape);
SAME_PLACE(Api, OrtApi, CreateCpuMemoryInfo);
SAME_PLACE(Api, OrtApi, AllocatorFree);
SAME_PLACE(Api, OrtApi, GetAllocatorWithDefaultOptions);
SAME_PLACE(Api, OrtApi, KernelInfoGetAttribute_float);
SAME_PLACE(Api, OrtApi, KernelInfoGetAttribute_int64);
SAME_PLACE(Api, OrtApi, KernelContext_GetInput);
SAME_PLACE(Api, OrtApi, KernelContext_GetOutput);
SAME_PLACE(Api, OrtApi, ReleaseStatus);
SAME_PLACE(Api, OrtApi, ReleaseMemoryInfo);
SAME_PLACE(Api, OrtApi, ReleaseSession);
SAME_PLACE(Api, OrtApi, ReleaseValue);
SAME_PLACE(Api, OrtApi, ReleaseTypeInfo);
SAME_PLACE(Api, OrtApi, ReleaseTensorTypeAndShapeInfo);
SAME_PLACE(Api, OrtApi, ReleaseSessionOptions);
SAME_PLACE(Api, OrtApi, ReleaseCustomOpDomain);
SAME_PLACE(Api, OrtApi, AddSessionConfigEntry);
SAME_PLACE(Api, OrtApi, RunWithBinding);
SAME_PLACE(Api, OrtApi, CreateIoBinding);
SAME_PLACE(Api, OrtApi, ReleaseIoBinding);
SAME_PLACE(Api, OrtApi, BindInput);
SAME_PLACE(Api, OrtApi, BindOutput);
SAME_PLACE(Api, OrtApi, AddInitializer);
SAME_PLACE(Api, OrtApi, RegisterAllocator);
SAME_PLACE(Api, OrtApi, KernelInfo_GetInputCount);
SAME_PLACE(Api, OrtApi, KernelInfo_GetOutputCount);
SAME_PLACE(Api, OrtApi, KernelInfo_GetInputName);
SAME_PLACE(Api, OrtApi, KernelInfo_GetOutputName);
SAME_PLACE(Api, OrtApi, KernelInfo_GetInputTypeInfo);
SAME_PLACE(Api, OrtApi, KernelInfo_GetNodeName);
SAME_PLACE(Api, OrtApi, KernelInfoGetConstantInput_tensor);
SAME_PLACE(Api, OrtApi, GetTensorSizeInBytes);

SAME_PLACE(Allocator, OrtAllocator, version);
SAME_PLACE(Allocator, OrtAllocator, Alloc);
SAME_PLACE(Allocator, OrtAllocator, Free);
SAME_PLACE(Allocator, OrtAllocator, Info);

SAME_PLACE(ApiBase, OrtApiBase, GetApi);
SAME_PLACE(ApiBase, OrtApiBase, GetVersionString);

SAME_PLACE(CustomOp, OrtCustomOp, version);
SAME_PLACE(CustomOp, OrtCustomOp, CreateKernel);
SAME_PLACE(CustomOp, OrtCustomOp, GetName);
SAME_PLACE(CustomOp, OrtCustomOp, GetExecutionProviderType);
SAME_PLACE(CustomOp, OrtCustomOp, GetInputType);
SAME_PLACE(CustomOp, OrtCustomOp, GetInputTypeCount);
SAME_PLACE(CustomOp, OrtCustomOp, GetOutputType);
SAME_PLACE(CustomOp, OrtCustomOp, GetOutputTypeCount);
SAME_PLACE(CustomOp, OrtCustomOp, KernelCompute);
SAME_PLACE(CustomOp, OrtCustomOp, KernelDestroy);
SAME_PLACE(CustomOp, OrtCustomOp, GetInputCharacteristic);
SAME_PLACE(CustomOp, OrtCustomOp, GetOutputCharacteristic);
SAME_PLACE(CustomOp, OrtCustomOp, GetInputMemoryType);
SAME_PLACE(CustomOp, OrtCustomOp, GetVariadicInputMinArity);
SAME_PLACE(CustomOp, OrtCustomOp, GetVariadicInputHomogeneity);
SAME_PLACE(CustomOp, OrtCustomOp, GetVariadicOutputMinArity);
SAME_PLACE(CustomOp, OrtCustomOp, GetVariadicOutputHomogeneity);
SAME_PLACE(CustomOp, OrtCustomOp, CreateKernelV2);
SAME_PLACE(CustomOp, OrtCustomOp, KernelComputeV2);
SAME_PLACE(CustomOp, OrtCustomOp, InferOutputShapeFn);
SAME_PLACE(CustomOp, OrtCustomOp, GetStartVersion);
SAME_PLACE(CustomOp, OrtCustomOp, GetEndVersion);
SAME_PLACE(CustomOp, OrtCustomOp, GetMayInplace);
SAME_PLACE(CustomOp, OrtCustomOp, ReleaseMayInplace);
SAME_PLACE(CustomOp, OrtCustomOp, GetAliasMap);
SAME_PLACE(CustomOp, OrtCustomOp, ReleaseAliasMap);
static_assert(sizeof(CustomOp) == sizeof(OrtCustomOp));

SAME_VALUE(kFail, ORT_FAIL);
SAME_VALUE(kInvalidArgument, ORT_INVALID_ARGUMENT);
SAME_VALUE(kLogFatal, ORT_LOGGING_LEVEL_FATAL);
SAME_VALUE(kOptimizeNothing, ORT_DISABLE_ALL);
SAME_VALUE(kDeviceAllocator, OrtDeviceAllocator);
SAME_VALUE(kDefaultMemory, OrtMemTypeDefault);
SAME_VALUE(kUndefined, ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED);
SAME_VALUE(kFloat32, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT);
SAME_VALUE(kUInt8, ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8);
SAME_VALUE(kInt32, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32);
SAME_VALUE(kInt64, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64);
SAME_VALUE(kFloat16, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16);
SAME_VALUE(kRequired, INPUT_OUTPUT_REQUIRED);
SAME_VALUE(kOptional, INPUT_OUTPUT_OPTIONAL);

}  // namespace gpt2fast::abi
