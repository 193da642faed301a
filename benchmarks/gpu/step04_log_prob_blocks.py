"""Log-probs at a vocabulary of 151,936: how exact they are in bfloat16, time and memory by block.

The truth is float64 from the same bfloat16 hidden states and weights, on some of the tokens.
"""

from __future__ import annotations

from benchmarks.gpu._finding import Finding, Findings, Size, at_most, peak_bytes, seconds

MIB = 2**20
BLOCKS: dict[Size, tuple[int, ...]] = {"full": (8, 64, 256, 512, 1024), "smoke": (1, 2)}
TOKENS: dict[Size, int] = {"full": 16_384, "smoke": 64}
VOCABULARY: dict[Size, int] = {"full": 151_936, "smoke": 4_096}
SOME = 64
HIDDEN: dict[Size, int] = {"full": 2048, "smoke": 64}


def measure(size: Size) -> Findings:
    """Yields for each block the time of forward and backward, the peak, and the difference."""
    import torch

    from drpo_cli import dist
    from drpo_cli.trainer.logprobs import Head, blockwise_logprobs

    device = torch.device(dist.device_type())
    torch.manual_seed(0)
    hidden_TD = torch.randn(TOKENS[size], HIDDEN[size], device=device, dtype=torch.bfloat16)
    weight_VD = 0.02 * torch.randn(VOCABULARY[size], HIDDEN[size], device=device)
    weight_VD = weight_VD.to(torch.bfloat16).requires_grad_()
    hidden_TD.requires_grad_()
    target_T = torch.randint(VOCABULARY[size], (TOKENS[size],), device=device)

    def run(mib: int) -> torch.Tensor:
        head, numbers = Head(1.0), mib * MIB // 4
        logp_T, _ = blockwise_logprobs(hidden_TD, weight_VD, None, target_T, head, numbers)
        logp_T.sum().backward()
        hidden_TD.grad = weight_VD.grad = None
        return logp_T.detach()

    first_T = run(BLOCKS[size][0])
    exact_TV = (hidden_TD[:SOME].double() @ weight_VD.detach().double().T).log_softmax(-1)
    exact_T = exact_TV.detach().gather(1, target_T[:SOME, None])[:, 0]
    error = float((first_T[:SOME] - exact_T).abs().max())
    yield at_most("head in float32: max |log π − float64|", error, 1e-4, "nats")
    flops = 8 * TOKENS[size] * VOCABULARY[size] * HIDDEN[size]
    for mib in BLOCKS[size]:
        taken = seconds(lambda m=mib: run(m), device, times=3, warm=1)
        yield Finding(f"{mib} MiB: forward and backward", 1e3 * taken, "ms")
        yield Finding(f"{mib} MiB: rate of its products", flops / taken / 1e12, "TFLOP/s")
        peak = peak_bytes(lambda m=mib: run(m), device)
        yield Finding(f"{mib} MiB: peak", peak / MIB, "MiB")
        error = float((run(mib) - first_T).abs().max())
        yield at_most(f"{mib} MiB: max |difference| to the first", error, 1e-4, "nats")
