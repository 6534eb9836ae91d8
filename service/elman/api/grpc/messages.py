"""The messages and services that the server speaks: names and numbers of fields are the protocols'."""

from elman.api.grpc.schema import Schema
from elman.repository.model_config import add_model_config

INFERENCE = Schema(
    "inference",
    """
    ServerLiveRequest
    ServerLiveResponse live:bool=1
    ServerReadyRequest
    ServerReadyResponse ready:bool=1
    ModelReadyRequest name:string=1 version:string=2
    ModelReadyResponse ready:bool=1
    ServerMetadataRequest
    ServerMetadataResponse name:string=1 version:string=2 extensions:*string=3
    ModelMetadataRequest name:string=1 version:string=2
    ModelMetadataResponse name:string=1 versions:*string=2 platform:string=3
        + inputs:*ModelMetadataResponse.TensorMetadata=4 outputs:*ModelMetadataResponse.TensorMetadata=5
        + properties:{string}=6
    ModelMetadataResponse.TensorMetadata name:string=1 datatype:string=2 shape:*int64=3

    InferParameter parameter_choice/bool_param:bool=1 parameter_choice/int64_param:int64=2
        + parameter_choice/string_param:string=3 parameter_choice/double_param:double=4
        + parameter_choice/uint64_param:uint64=5
    InferTensorContents bool_contents:*bool=1 int_contents:*int32=2 int64_contents:*int64=3 uint_contents:*uint32=4
        + uint64_contents:*uint64=5 fp32_contents:*float=6 fp64_contents:*double=7 bytes_contents:*bytes=8
    ModelInferRequest model_name:string=1 model_version:string=2 id:string=3 parameters:{InferParameter}=4
        + inputs:*ModelInferRequest.InferInputTensor=5 outputs:*ModelInferRequest.InferRequestedOutputTensor=6
        + raw_input_contents:*bytes=7
    ModelInferRequest.InferInputTensor name:string=1 datatype:string=2 shape:*int64=3 parameters:{InferParameter}=4
        + contents:InferTensorContents=5
    ModelInferRequest.InferRequestedOutputTensor name:string=1 parameters:{InferParameter}=2
    ModelInferResponse model_name:string=1 model_version:string=2 id:string=3 parameters:{InferParameter}=4
        + outputs:*ModelInferResponse.InferOutputTensor=5 raw_output_contents:*bytes=6
    ModelInferResponse.InferOutputTensor name:string=1 datatype:string=2 shape:*int64=3 parameters:{InferParameter}=4
        + contents:InferTensorContents=5
    ModelStreamInferResponse error_message:string=1 infer_response:ModelInferResponse=2

    ModelConfigRequest name:string=1 version:string=2
    ModelConfigResponse config:ModelConfig=1

    ModelStatisticsRequest name:string=1 version:string=2
    ModelStatisticsResponse model_stats:*ModelStatistics=1
    ModelStatistics name:string=1 version:string=2 last_inference:uint64=3 inference_count:uint64=4
        + execution_count:uint64=5 inference_stats:InferStatistics=6 batch_stats:*InferBatchStatistics=7
        + memory_usage:*MemoryUsage=8
    InferStatistics success:StatisticDuration=1 fail:StatisticDuration=2 queue:StatisticDuration=3
        + compute_input:StatisticDuration=4 compute_infer:StatisticDuration=5 compute_output:StatisticDuration=6
        + cache_hit:StatisticDuration=7 cache_miss:StatisticDuration=8
    StatisticDuration count:uint64=1 ns:uint64=2
    InferBatchStatistics batch_size:uint64=1 compute_input:StatisticDuration=2 compute_infer:StatisticDuration=3
        + compute_output:StatisticDuration=4
    MemoryUsage type:string=1 id:int64=2 byte_size:uint64=3

    ModelRepositoryParameter parameter_choice/bool_param:bool=1 parameter_choice/int64_param:int64=2
        + parameter_choice/string_param:string=3 parameter_choice/bytes_param:bytes=4
    RepositoryIndexRequest repository_name:string=1 ready:bool=2
    RepositoryIndexResponse models:*RepositoryIndexResponse.ModelIndex=1
    RepositoryIndexResponse.ModelIndex name:string=1 version:string=2 state:string=3 reason:string=4
    RepositoryModelLoadRequest repository_name:string=1 model_name:string=2 parameters:{ModelRepositoryParameter}=3
    RepositoryModelLoadResponse model_name:string=1 isLoaded:bool=2
    RepositoryModelUnloadRequest repository_name:string=1 model_name:string=2 parameters:{ModelRepositoryParameter}=3
    RepositoryModelUnloadResponse model_name:string=1 isUnloaded:bool=2
    """,
    services={
        "GRPCInferenceService": """
        ServerLive
        ServerReady
        ModelReady
        ServerMetadata
        ModelMetadata
        ModelInfer
        >ModelStreamInfer> ModelInferRequest ModelStreamInferResponse
        ModelConfig
        ModelStatistics
        RepositoryIndex
        RepositoryModelLoad
        RepositoryModelUnload
        """
    },
    add=add_model_config,
)
"""The Open Inference Protocol with Triton's extensions, and the few fields that KServe has beside them."""

HEALTH = Schema(
    "grpc.health.v1",
    """
    HealthCheckRequest service:string=1
    HealthCheckResponse status:ServingStatus=1
    """,
    enums={"ServingStatus": "UNKNOWN SERVING NOT_SERVING SERVICE_UNKNOWN"},
    services={
        "Health": """
        Check HealthCheckRequest HealthCheckResponse
        Watch> HealthCheckRequest HealthCheckResponse
        """
    },
)
"""gRPC's own health checks, which probes and balancers use."""


def _reflection(version: str) -> Schema:
    return Schema(
        f"grpc.reflection.{version}",
        """
        ServerReflectionRequest host:string=1 message_request/file_by_filename:string=3
            + message_request/file_containing_symbol:string=4
            + message_request/file_containing_extension:ExtensionRequest=5
            + message_request/all_extension_numbers_of_type:string=6 message_request/list_services:string=7
        ExtensionRequest containing_type:string=1 extension_number:int32=2
        ServerReflectionResponse valid_host:string=1 original_request:ServerReflectionRequest=2
            + message_response/file_descriptor_response:FileDescriptorResponse=4
            + message_response/all_extension_numbers_response:ExtensionNumberResponse=5
            + message_response/list_services_response:ListServiceResponse=6
            + message_response/error_response:ErrorResponse=7
        FileDescriptorResponse file_descriptor_proto:*bytes=1
        ExtensionNumberResponse base_type_name:string=1 extension_number:*int32=2
        ListServiceResponse service:*ServiceResponse=1
        ServiceResponse name:string=1
        ErrorResponse error_code:int32=1 error_message:string=2
        """,
        services={
            "ServerReflection": ">ServerReflectionInfo> ServerReflectionRequest ServerReflectionResponse",
        },
    )


REFLECTION = tuple(_reflection(version) for version in ("v1", "v1alpha"))
"""What tools such as grpcurl ask for the messages by. Older ones know only the second."""
