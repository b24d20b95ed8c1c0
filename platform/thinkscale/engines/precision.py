"""In which type a device computes fastest."""


def fast_dtype(device: str | None = None) -> str:
    """`bfloat16` or `float32`. `device`: `cuda` or `cpu`; default: a GPU where there is one.
    Processors multiply bfloat16 faster with AMX or ARM's matrix instructions. With AVX-512 alone float32 is faster."""
    import torch

    on_gpu = torch.cuda.is_available() if device is None else device.startswith("cuda")
    can = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return "bfloat16" if on_gpu or can.get("amx_bf16") or can.get("bf16") else "float32"
