"""First step of both endpoints: check all fields, resolve defaults and seed, tokenise and embed both prompts."""

import json
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wan_t2v.contract import REQUEST
from wan_t2v.facts import DEFAULTS_FILE, FACTS_FILE, TOKENIZER_FILE, ModelFacts, ServingDefaults
from wan_t2v.field_checks.invalid_field import InvalidField
from wan_t2v.field_checks.names import check_parameters
from wan_t2v.field_checks.sizes import ServedSizes, check_size
from wan_t2v.request import Settings, resolve_settings
from wan_t2v.serving.admission.ensemble_gate import EnsembleGate
from wan_t2v.serving.admission.estimate import publish_largest
from wan_t2v.serving.model_files import check_model_files
from wan_t2v.serving.models.cached_text_encoder import CachedTextEncoder
from wan_t2v.serving.models.request_fields import field_value
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
        self._facts = ModelFacts.read(folder)
        self._defaults = ServingDefaults.read(folder)
        self._tokenizer = PromptTokenizer(folder, text_length=self._facts.text_length)
        self._served = ServedSizes(
            largest=parameters.video_shape("largest_clip"),
            listed=parameters.video_shapes("served_clips"),
            token_passes=parameters.integer("max_token_passes", least=1),
        )
        check_size(
            VideoShape(self._defaults.num_frames, self._defaults.height, self._defaults.width),
            self._facts.grid,
            self._served,
        )
        self._text_encoder = CachedTextEncoder(pb_utils, vocabulary=self._tokenizer.vocabulary)
        self._identities = {"text_encoder": graph_identity(parameters, "text_encoder")}
        self._gate = EnsembleGate(pb_utils, parameters)
        run = server_run_directory(parameters)
        self._signer = SettingsSigner(run.key())
        publish_largest(run, self._served.listed or (self._served.largest,))
        publish_limits(run, limits_document(defaults=self._defaults, facts=self._facts, served=self._served))
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
            outputs = self._embed_prompts(pending.settle(self._settings(request, pending.options)))
            pending.renew()
            return outputs

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
        tensors = {tensor.name(): tensor for tensor in request.inputs()}
        latents = tensors.pop("latents", None)
        fields = {name: field_value(name, tensor) for name, tensor in tensors.items()}
        if latents is not None:
            _check_finite(latents.as_numpy())
        return resolve_settings(
            fields,
            latents_shape=None if latents is None else latents.as_numpy().shape,
            defaults=self._defaults,
            grid=self._facts.grid,
            served=self._served,
            fallback_seed=options.key.seed if options.key else secrets.randbelow(2**32),
        )


def _check_finite(latents: NDArray[Any]) -> None:
    """Reject starting noise with NaN or infinite values. Raises InvalidField."""
    wrong = latents.size - int(np.isfinite(latents).sum())
    if wrong:
        raise InvalidField("latents", f"{wrong} values of {latents.size} that are not finite", "finite numbers")


def _token_report(tokens: Tokens) -> dict[str, Any]:
    return {"tokens": tokens.count, "truncated": tokens.truncated}
