"""The Open Inference Protocol (KServe v2): what Triton's and KServe's clients speak.

What a tensor means is said once, in `infer`; the HTTP form and the gRPC form only translate.

    transport → InferRequest → Infer.begin(request, encode) → work → encode(InferResponse) → transport

`Infer.begin` is what an endpoint's `parse` does: it gives the work to run, or raises ElmanError. When the work is done
the driver calls `work.respond()`, which gives what `encode` makes of the `InferResponse`. So the driver serves each
form, with its deadlines, cancellation and limits. A transport that has no `Response` gives an `Exchange` of its own to
`Driver.start`; its `reply` is then called with what `encode` returned.

    messages   InferRequest, InferResponse, Tensor, RequestedOutput
    ports      the tensors of a model: which are listed in the metadata, which are taken beside them, their axes
    infer      Infer: `read(request) -> Call`, the sequences in the engine, `answer(call, rows) -> InferResponse`
    http       `POST .../infer`: JSON, binary tensors and compression, to an InferRequest and back
    models     metadata, configuration and statistics of a model, as plain objects
    routes     every other route

Who runs the rows of a request in another way than as whole sequences, such as in sessions, calls `read` and `answer`
with something else between them.
"""
