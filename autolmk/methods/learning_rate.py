"""The learning-rate schedules that plans name, as factors of the planned rate."""

from __future__ import annotations

import math

from autolmk.plans import Rate

WARM_UP_ITERATIONS = 50  # at most; a tenth of a very short run
CYCLES = 5  # of published restarts: of 10,000, 20,000 ... 160,000 iterations
APGA_EPOCHS, APGA_WARM_UP, APGA_STEP, APGA_DOWN = 80, 5, 10, 45  # epochs: in all, and as `learning_rate_factor` says
POWER = 0.9  # of the polynomial decay, as nnU-Net's (Isensee et al., Nature Methods 2021)


def learning_rate_factor(progress: float, iteration: int, iterations: int, rate: Rate = "polynomial") -> float:
    """The factor on the planned rate for the step that follows `iteration` steps. polynomial: a linear warm-up, then (1
    - progress)^0.9. As published: `constant` and `restarts` (Noothout et al.: cosine, five cycles, each twice as long
    as the one before; Loshchilov and Hutter, ICLR 2017), and `apga` (a linear warm-up over 5 of 80 epochs, then steps
    of 10 epochs down a parabola that ends after 45 of them, and up again).
    """
    if rate == "constant":
        return 1.0
    if rate == "restarts":
        shortest = progress * (2**CYCLES - 1)  # in lengths of the first cycle
        cycle = min(CYCLES - 1, int(math.log2(shortest + 1)))
        return 0.5 * (1 + math.cos(math.pi * ((shortest + 1) / 2**cycle - 1)))
    if rate == "apga":
        epoch = progress * APGA_EPOCHS - APGA_WARM_UP
        if epoch < 0:
            return min(1.0, progress * APGA_EPOCHS / APGA_WARM_UP + 1 / max(1, iterations))
        return (1 - APGA_STEP * (epoch // APGA_STEP) / APGA_DOWN) ** 2
    warm_up = max(1, min(WARM_UP_ITERATIONS, iterations // 10))
    return min(1.0, (iteration + 1) / warm_up) * float(max(0.0, 1.0 - progress) ** POWER)
