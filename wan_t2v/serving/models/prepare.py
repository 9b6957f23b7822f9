"""First step of both endpoints: check all fields, resolve defaults and seed, tokenise and embed both prompts."""

import json
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any

from wan_t2v.contract import REQUEST
from wan_t2v.facts import DEFAULTS_FILE, FACTS_FILE, TOKENIZER_FILE, ModelFacts, ServingDefaults
from wan_t2v.field_checks.names import check_parameters
from wan_t2v.field_checks.sizes import ServedSizes, check_size
from wan_t2v.request import Settings
from wan_t2v.serving.admission.ensemble_gate import EnsembleGate
from wan_t2v.serving.model_files import check_model_files
from wan_t2v.serving.models.cached_text_encoder import CachedTextEncoder
from wan_t2v.serving.models.request_fields import FieldChecks
from wan_t2v.serving.published_limits import limits_document, publish_limits
from wan_t2v.serving.python_backend.parameters import ModelParameters, graph_identity
from wan_t2v.serving.python_backend.responses import respond_to_all
from wan_t2v.serving.python_backend.run import server_run_directory
from wan_t2v.serving.python_backend.tensors import rename_tensor, text_to_triton
from wan_t2v.serving.python_backend.tracing import Tracer
from wan_t2v.serving.request_options import PARAMETERS, RequestOptions
from wan_t2v.serving.signed_settings import Generation, SettingsSigner
from wan_t2v.shapes import VideoShape
from wan_t2v.tokens import PromptTokenizer, Tokens, text_embeddings

_NAMES = tuple(field.name for field in REQUEST)


class Prepare:
    """The model `prepare`."""

    def __init__(self, pb_utils: Any, args: Mapping[str, str]) -> None:
        parameters = ModelParameters.from_args(args)
        folder = parameters.version_folder
        check_model_files(folder, (FACTS_FILE, DEFAULTS_FILE, TOKENIZER_FILE), graphs=("text_encoder",))
        self._pb_utils = pb_utils
        facts, defaults = ModelFacts.read(folder), ServingDefaults.read(folder)
        self._tokenizer = PromptTokenizer(folder, text_length=facts.text_length)
        served = ServedSizes(
            largest=parameters.video_shape("largest_clip"),
            listed=parameters.video_shapes("served_clips"),
            token_passes=parameters.integer("max_token_passes", least=1),
        )
        check_size(
            VideoShape(defaults.num_frames, defaults.height, defaults.width),
            facts.grid,
            served,
        )
        self._checks = FieldChecks(defaults, facts.grid, served)
        self._text_encoder = CachedTextEncoder(pb_utils, vocabulary=self._tokenizer.vocabulary)
        self._identities = {"text_encoder": graph_identity(parameters, "text_encoder")}
        self._gate = EnsembleGate(pb_utils, parameters)
        run = server_run_directory(parameters)
        self._signer = SettingsSigner(run.key())
        publish_limits(run, limits_document(defaults=defaults, facts=facts, served=served))
        self._tracer = Tracer.of_process(parameters.model)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Triton's entry point."""
        return respond_to_all(self._pb_utils, requests, self._answer)

    def finalize(self) -> None:
        """Triton's exit point."""
        self._gate.close()
        self._tracer.close()

    def _answer(self, request: Any) -> list[Any]:
        with self._tracer.of_request(request).span("prepare"), self._gate.admit(request) as pending:
            return self._embed_prompts(pending.settle(self._settings(request, pending.options)))

    def _embed_prompts(self, generation: Generation) -> list[Any]:
        started, settings = time.monotonic(), generation.settings
        prompt = self._tokenizer(settings.prompt)
        negative = self._tokenizer(settings.negative_prompt)
        prompt_embeds = text_embeddings(prompt, self._text_encoder)
        # Without guidance the denoiser ignores the negative embeddings, but the ensemble requires the tensor.
        negative_embeds = text_embeddings(negative, self._text_encoder) if settings.guided else prompt_embeds
        report = {
            "prompt": _token_report(prompt),
            "negative_prompt": _token_report(negative),
            "graphs": self._identities,
            "prepare_ms": 1e3 * (time.monotonic() - started),
        }
        return [
            rename_tensor(self._pb_utils, "prompt_embeds", prompt_embeds),
            rename_tensor(self._pb_utils, "negative_prompt_embeds", negative_embeds),
            text_to_triton(self._pb_utils, "settings", self._signer.sign(generation)),
            text_to_triton(self._pb_utils, "prepare_report", json.dumps(report)),
        ]

    def _settings(self, request: Any, options: RequestOptions) -> Settings:
        check_parameters(options.names, fields=_NAMES, parameters=PARAMETERS)
        seed = options.key.seed if options.key else secrets.randbelow(2**32)
        return self._checks.settings({tensor.name(): tensor for tensor in request.inputs()}, fallback_seed=seed)


def _token_report(tokens: Tokens) -> dict[str, Any]:
    return {"tokens": tokens.count, "truncated": tokens.truncated}
