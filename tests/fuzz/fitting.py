"""The OpenAPI document of a server, narrowed to what its models take.

A document is the same whatever is served. So it cannot say how many features a model has, or which sessions there are.
Here each operation on a model gets a copy for each model, whose body has such values. Models with several inputs, or
with features that are known ahead, are left out.
"""

import copy
from dataclasses import dataclass
from typing import Any

import httpx

Schema = dict[str, Any]

NULL: Schema = {"type": "null"}
JSON, OCTETS = "application/json", "application/octet-stream"
UNKNOWN = "nobody"
# Sequences are short, since the contract is the same for long ones.
_MOST_STEPS = 6
_HORIZON = 5


@dataclass(frozen=True)
class Served:
    """One model of a server.

    Attributes:
        tensors: its metadata in the Open Inference Protocol.
        session, state: a session that has done steps, and the token of its state; None if the model has none.
    """

    card: dict[str, Any]
    tensors: dict[str, Any]
    session: str | None
    state: str | None

    @property
    def name(self) -> str:
        return str(self.card["name"])

    def sequence(self, least: int = 1) -> Schema:
        """A sequence of at least so many steps."""
        given, most = self.card["input"], _MOST_STEPS
        if self.card["window"] is not None:
            least = most = self.card["window"]
        ids = {"type": "integer", "minimum": 0, "maximum": (given.get("vocabulary_size") or 1) - 1}
        number = {"type": "number", "minimum": -1e3, "maximum": 1e3}
        row = {"type": "array", "items": number, "minItems": given.get("size"), "maxItems": given.get("size")}
        step = {"tokens": ids, "features": row, "frames": number}[given["kind"]]
        if given["kind"] == "frames":
            least, most = given["size"], 3 * given["size"]
        steps: Schema = {"type": "array", "items": step, "minItems": least, "maxItems": most}
        # Without a token for unknown characters, only those of the vocabulary are taken, which the card does not have.
        if given.get("unknown") is None:
            return steps
        return {"anyOf": [steps, {"type": "string", "minLength": least, "maxLength": _MOST_STEPS}]}

    def start(self) -> dict[str, Schema]:
        """The fields that say where a request starts."""
        return {"session": {"enum": [None, self.session]}, "state": {"enum": [None, self.state]}, "static": NULL}

    def heads(self) -> Schema:
        names = [one["name"] for one in self.card["outputs"][1:] if one["role"] != "state"]
        return {"type": "array", "items": {"enum": names}} if names else {"type": "array", "maxItems": 0}

    def bodies(self) -> dict[str, dict[str, Schema]]:
        """For the last part of a path, the fields of its body that this model takes."""
        start, sequence = self.start(), self.sequence()
        of_steps: dict[str, Schema] = {"sequence": sequence, "heads": self.heads()}
        if self.card["outputs"][0]["role"] == "final" and not self.card["streaming"]:
            of_steps["return"] = {"enum": ["final"]}
        of_start = {"state": start["state"], "static": NULL}
        sequences = {"type": "array", "items": sequence, "minItems": 1, "maxItems": 3}
        found = {"predict": {**of_steps, **of_start, "sequences": sequences}, "infer": self._infer()}
        if self.card["streaming"]:
            target = {"enum": [None, 0, self.card["output"]["size"] - 1]}
            found |= {"steps": of_steps, "sessions": of_start}
            found["influence"] = {**of_start, "sequence": self.sequence(2), "target": target}
        if self.card["generation"] is not None:
            found["generate"] = start | self._generate(sequence)
        if self.card["forecast"] is not None:
            found["forecast"] = start | self._forecast(sequence, sequences)
        return found

    def _generate(self, sequence: Schema) -> dict[str, Schema]:
        return {
            "prompt": sequence,
            "condition": {"enum": [None, *self.card["generation"]["conditions"]]},
            "max_steps": {"type": "integer", "minimum": 1, "maximum": 8},
            "samples": {"type": "integer", "minimum": 1, "maximum": 3},
            "num_beams": {"type": "integer", "minimum": 1, "maximum": 4},
            # That there are as many beams is more than a schema can say.
            "num_return_sequences": {"type": "integer", "minimum": 1, "maximum": 2},
        }

    def _forecast(self, sequence: Schema, sequences: Schema) -> dict[str, Schema]:
        return {
            "series": {"anyOf": [sequence, NULL]},
            "series_list": {"anyOf": [sequences, NULL]},
            "horizon": {"type": "integer", "minimum": 1, "maximum": self._horizon},
            "samples": self._samples,
            "future": NULL,
        }

    @property
    def _horizon(self) -> int:
        forecast = self.card["forecast"]
        return min(forecast["max_horizon"] or _HORIZON, forecast["max_sampled"] or _HORIZON, _HORIZON)

    @property
    def _samples(self) -> Schema:
        return {"type": "integer", "minimum": 0, "maximum": 4 if self.card["forecast"]["sampled"] else 0}

    def time_series(self) -> tuple[dict[str, Schema], dict[str, Schema]]:
        """The fields of a series and of the options of KServe's time series route."""
        kind = "univariate_time_series" if self.card["input"]["size"] == 1 else "multivariate_time_series"
        series = self.sequence()
        if kind == "univariate_time_series":
            series["items"] = series["items"]["items"]
        fields = {"type": {"enum": [kind]}, "series": series, "future": {"type": "array", "maxItems": 0}}
        # A series must end before the year 10000.
        fields["start_timestamp"] = {"enum": [None, "2024-01-31T00:00:00Z", "2024-02-29"]}
        samples = {"anyOf": [self._samples, NULL]}
        return fields, {"horizon": {"type": "integer", "minimum": 1, "maximum": self._horizon}, "samples": samples}

    def _infer(self) -> dict[str, Schema]:
        (tensor,) = self.tensors["inputs"]
        shape = [3 if extent < 0 else extent for extent in tensor["shape"]]
        shape[0], size = 1, 1
        for extent in shape:
            size *= extent
        number: Schema = {"type": "number", "minimum": -1e3, "maximum": 1e3}
        if self.card["input"]["kind"] == "tokens":
            number = {"type": "integer", "minimum": 0, "maximum": (self.card["input"]["vocabulary_size"] or 1) - 1}
        return {
            "inputs/name": {"enum": [tensor["name"]]},
            "inputs/datatype": {"enum": [tensor["datatype"]]},
            "inputs/shape": {"enum": [shape]},
            "inputs/data": {"type": "array", "items": number, "minItems": size, "maxItems": size},
            "outputs/name": {"enum": [one["name"] for one in self.tensors["outputs"]]},
            "model_name": {"enum": [None, self.name]},
        }


def served_models(client: httpx.Client, names: tuple[str, ...]) -> list[Served]:
    """The models of a server, with a session and a state token of each. Without names, all that can be fitted."""
    found = []
    for card in client.get("/v1/models").raise_for_status().json()["models"]:
        roles = [one["role"] for one in card["inputs"]]
        plain = roles.count("sequence") == 1 and "static" not in roles and not (card["forecast"] or {}).get("known")
        if not plain or (names and card["name"] not in names):
            continue
        tensors = client.get(f"/v2/models/{card['name']}").raise_for_status().json()
        session = state = None
        examples = client.get(f"/v1/models/{card['name']}/examples").json()["examples"]
        if card["streaming"] and examples:
            session = client.post(f"/v1/models/{card['name']}/sessions").raise_for_status().json()["id"]
            client.post(f"/v1/sessions/{session}/steps", json={"sequence": examples[0]["sequence"]}).raise_for_status()
            state = client.get(f"/v1/sessions/{session}/state").raise_for_status().json()["state"]
        found.append(Served(card, tensors, session, state))
    return found


def named(document: Schema, models: list[Served], spare: str = UNKNOWN) -> Schema:
    """The document with the names and sessions that there are. `spare` is a model that may be loaded and unloaded."""
    document = copy.deepcopy(document)
    names = [one.name for one in models]
    sessions = [one.session for one in models if one.session is not None]
    for path, item in document["paths"].items():
        for method, operation in item.items():
            values = {"name": [*names, UNKNOWN], "id": sessions[:1]}
            if method == "delete":
                values["id"] = [UNKNOWN]
            elif path.endswith("load"):
                values["name"] = [spare, UNKNOWN]
            _set_parameters(operation, values)
            content = operation.get("requestBody", {}).get("content", {})
            if JSON in content:  # to a schema, all bytes are right
                content.pop(OCTETS, None)
    return document


def fitted(document: Schema, models: list[Served], spare: str = UNKNOWN) -> Schema:
    """As `named`, and with bodies that these models take."""
    original, document = document, named(document, models, spare)
    paths: dict[str, Any] = {}
    for path, item in document["paths"].items():
        verb = path.rpartition("/")[2]
        takes_model = "post" in item and ("/models/{name}" in path or verb == "steps") and not verb.endswith("load")
        for one in models if takes_model else ():
            if verb in (bodies := one.bodies()):
                name = path.replace("{name}", one.name)
                paths[name] = _of_model(document, copy.deepcopy(original["paths"][path]), one, bodies[verb])
        if not takes_model:
            paths[path] = item
    _fit_time_series(document, models)
    token = next(one.state for one in models if one.state is not None)
    _narrow_body(document, paths["/v1/sessions/{id}/state"]["put"], {"state": {"enum": [token]}})
    return document | {"paths": paths}


def _set_parameters(operation: Schema, values: dict[str, list[Any]]) -> None:
    """Give the parameters of a path their values. A model that has taken its place in the path has no name there."""
    for one in operation.get("parameters", ()):
        if one["in"] == "path" and one["name"] in values:
            one["schema"] = {"enum": values[one["name"]]}


def _of_model(document: Schema, item: Schema, model: Served, fields: dict[str, Schema]) -> Schema:
    """A copy for one model. Paths with a version take binary bodies, with their options in the query; others JSON."""
    operation, content = item["post"], item["post"]["requestBody"]["content"]
    operation["operationId"] += f"_{model.name}"
    operation["parameters"] = [one for one in operation["parameters"] if one["name"] != "name"]
    _set_parameters(operation, {"version": [model.card["version"]], "id": [model.session]})
    if "version" in str(operation.get("parameters")) and OCTETS in content and "infer" not in operation["operationId"]:
        del content[JSON]
        operation["x-input"] = model.card["input"]
    else:
        content.pop(OCTETS, None)
        operation["parameters"] = [one for one in operation["parameters"] if one["in"] != "query"]
        _narrow_body(document, operation, fields)
    return item


def _narrow_body(document: Schema, operation: Schema, fields: dict[str, Schema]) -> None:
    body = operation["requestBody"]["content"][JSON]
    schemas = document["components"]["schemas"]
    schema = copy.deepcopy(schemas[body["schema"]["$ref"].rpartition("/")[2]])
    properties = schema["properties"]
    if "inputs/name" in fields:  # of `infer`, whose parameters may be anything that a model has no use for
        inner = {name: value for name, value in fields.items() if "/" in name}
        for name, part in (("inputs", "InputBody"), ("outputs", "OutputBody")):
            of_part = {key.partition("/")[2]: value for key, value in inner.items() if key.startswith(name)}
            one = copy.deepcopy(schemas[part])
            one["properties"] |= {**of_part, "parameters": NULL}
            properties[name] = {"type": "array", "items": one, "minItems": 1, "maxItems": 1}
        fields = {name: value for name, value in fields.items() if "/" not in name} | {"parameters": NULL}
    properties.update((name, value) for name, value in fields.items() if name in properties)
    body["schema"] = schema


def _fit_time_series(document: Schema, models: list[Served]) -> None:
    model = next(one for one in models if one.card["forecast"] is not None)
    schemas = document["components"]["schemas"]
    for name, fields in zip(("TimeSeriesInput", "TimeSeriesOptions"), model.time_series(), strict=True):
        schemas[name]["properties"].update(fields)
    schemas["TimeSeriesRequest"]["properties"]["model"] = {"enum": [model.name, UNKNOWN]}
    schemas["TimeSeriesRequest"]["properties"]["inputs"]["maxItems"] = 2
