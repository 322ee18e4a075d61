"""Parts that emoji-unclip and emoji-diffusion share: schedule, loss and moving average of a UNet that draws."""

import copy

import torch
from diffusers import DDIMScheduler, ModelMixin, UNet2DConditionModel

TIMES = 1000  # of noise schedules
GAMMA = 5.0
DROPPED = 0.1  # share of conditions replaced by none, which the pipeline's guidance draws away from
AVERAGE = 0.999


def drawing_scheduler() -> DDIMScheduler:
    """A cosine schedule, which ends in pure noise, for a UNet that predicts v; drawn from its very last step on."""
    return DDIMScheduler(
        num_train_timesteps=TIMES,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
        steps_offset=1,  # Stable Diffusion asks for it; spaced so, it moves nothing
    )


def loss_weights(scheduler: DDIMScheduler, gamma: float = GAMMA) -> torch.Tensor:
    """Weights of the squared errors of v, ``[timesteps]``: min(SNR + 1, gamma) / (SNR + 1).

    Min-SNR weighting (Hang et al. 2023) as diffusers' training scripts had it for v: since the error of v is SNR + 1
    times that of the drawing itself, the latter has the weight min(SNR + 1, gamma). Without the 1 the first steps of a
    drawing, which start from pure noise and decide what it shows, would have no weight.
    """
    snr = scheduler.alphas_cumprod / (1 - scheduler.alphas_cumprod)
    return (snr + 1).clamp(max=gamma) / (snr + 1)


def draw_times(generator: torch.Generator, latents: torch.Tensor) -> dict[str, torch.Tensor]:
    """Noise and times of a batch of latents.

    Half of the times are above 937, where hardly anything of the drawing can be seen. Latents have many numbers for
    what little varies in canonical pictures, so that with less noise they tell what they show by themselves: from the
    condition the UNet learns where the noise is largest.
    """
    return {
        "noise": torch.randn(latents.shape, generator=generator),
        "times": ((1 - torch.rand(len(latents), generator=generator) ** 4) * TIMES).long().clamp(max=TIMES - 1),
    }


def draw_conditioned(generator: torch.Generator, n: int) -> torch.Tensor:
    """Draws which conditions stay, 1 or 0, ``[n]``."""
    return (torch.rand(n, generator=generator) >= DROPPED).float()


class Denoiser(torch.nn.Module):
    """A UNet, its moving average, and the loss."""

    def __init__(self, unet: UNet2DConditionModel):
        super().__init__()
        self.unet = unet
        self.average = copy.deepcopy(unet).requires_grad_(False)
        self.scheduler = drawing_scheduler()
        self.register_buffer("weights", loss_weights(self.scheduler), persistent=False)

    def loss(
        self, latents: torch.Tensor, chance: dict[str, torch.Tensor], **condition: torch.Tensor | None
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """The loss for scaled latents, what :func:`draw_times` gave for them, and the UNet's further arguments."""
        noise, times = chance["noise"], chance["times"]
        noisy = self.scheduler.add_noise(latents, noise, times)
        target = self.scheduler.get_velocity(latents, noise, times)
        predicted = self.unet(noisy, times, **condition).sample.float()
        error = (predicted - target).square().mean((1, 2, 3))
        return (self.weights[times] * error).mean(), {"error": error.mean().item()}

    @torch.no_grad()
    def update_average(self, step: int) -> None:
        """Moves the average towards the UNet after a step; early averages forget faster."""
        decay = min(AVERAGE, (1 + step) / (10 + step))
        for average, weight in zip(self.average.parameters(), self.unet.parameters()):
            average.lerp_(weight, 1 - decay)


def publishable(part: ModelMixin) -> ModelMixin:
    """A part of a pipeline in half precision, without the folder's name from which it was loaded."""
    part.register_to_config(_name_or_path=None)
    return part.half()
