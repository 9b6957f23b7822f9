"""The names that the contract makes."""

from wan_t2v.contract import CACHE_IN, CACHE_OUT, MODELS, VAE_CACHES, cache_input_of, cache_names


def test_each_cache_that_the_vae_decoder_writes_is_an_input_of_the_next_call() -> None:
    graph = MODELS["vae_decoder_next"]
    written = [output.name for output in graph.outputs if output.name != "frames"]
    assert written == list(cache_names(CACHE_OUT)) and len(written) == VAE_CACHES
    assert [cache_input_of(name) for name in written] == [spec.name for spec in graph.inputs if spec.name != "latents"]
    assert cache_names(CACHE_IN, 2) == ("cache_in_0", "cache_in_1")
