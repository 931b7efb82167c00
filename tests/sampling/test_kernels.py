"""Kernels against closed forms written independently, in float64, in the papers' own variables."""

import math

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler

from flowgrpo.core.keys import Noise
from flowgrpo.policies.diffusers._schedule import read_schedule
from flowgrpo.policies.diffusers._tap import Span
from flowgrpo.sampling.kernels import Move
from flowgrpo.sampling.kernels.calibrated import Calibrated
from flowgrpo.sampling.kernels.cps import Cps
from flowgrpo.sampling.kernels.dance_sde import DanceSde
from flowgrpo.sampling.kernels.ddim import Ddim
from flowgrpo.sampling.kernels.dpmpp_2m import DpmPp2m
from flowgrpo.sampling.kernels.flow_sde import FlowSde
from flowgrpo.sampling.kernels.ode import Ode
from flowgrpo.sampling.laws.gaussian import GaussianLaw
from flowgrpo.sampling.levels import Schedule

CPU = torch.device("cpu")


def sd3_schedule() -> Schedule:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(10)
    return read_schedule(scheduler, Span(0, len(scheduler.timesteps)))


def linspace_schedule() -> Schedule:
    t = np.linspace(1.0, 0.0, 11)
    sigmas = tuple(float(np.float32(s)) for s in 3 * t / (1 + 2 * t))
    return Schedule(tuple(1 - s for s in sigmas), sigmas, tuple(1000 * s for s in sigmas[:-1]), "velocity")


def flow_sde(s, n, second, x, v, a=0.7):
    """Flow-GRPO's code: drift with the score written in terms of v, diffusion a sqrt(s / (1 - s))."""
    dt = n - s
    std = math.sqrt(s / (1 - (second if s == 1 else s))) * a
    mean = x * (1 + std**2 / (2 * s) * dt) + v * (1 + std**2 * (1 - s) / (2 * s)) * dt
    return mean, std * math.sqrt(-dt)


def dance_sde(s, n, second, x, v, eta=0.3):
    """DanceGRPO's code: Euler step plus half eta^2 times the score."""
    dt = n - s
    x0 = x - s * v
    score = -(x - (1 - s) * x0) / s**2
    return x + dt * v - 0.5 * eta**2 * score * dt, eta * math.sqrt(-dt)


def cps(s, n, second, x, v, a=0.8):
    tau = n * math.sin(a * math.pi / 2)
    return (1 - n) * (x - s * v) + math.sqrt(n * n - tau * tau) * (x + (1 - s) * v), tau


def ddim(s, n, second, x, v, eta=1.0):
    tau = eta * n * math.sqrt(1 - n**2 * (1 - s) ** 2 / (s**2 * (1 - n) ** 2))
    return (1 - n) * (x - s * v) + math.sqrt(n * n - tau * tau) * (x + (1 - s) * v), tau


CASES = [(FlowSde(noise_level=0.7), flow_sde), (DanceSde(eta=0.3), dance_sde), (Cps(noise_level=0.8), cps), (Ddim(eta=1.0), ddim)]


def test_the_sd3_schedule_ends_as_published():
    assert sd3_schedule().sigmas[-3:] == pytest.approx((0.278, 0.0089, 0.0), abs=5e-4)


@pytest.mark.parametrize("schedule", [sd3_schedule(), linspace_schedule()], ids=["sd3", "linspace"])
@pytest.mark.parametrize(("kernel", "formula"), CASES, ids=lambda c: getattr(c, "type", ""))
def test_mean_std_and_log_prob_at_every_step(schedule, kernel, formula):
    rng = np.random.default_rng(0)
    for i in range(10):
        x, v, y = rng.standard_normal((3, 1, 4, 4))
        s, n = schedule.sigmas[i], schedule.sigmas[i + 1]
        if n == 0.0 and formula in (cps, ddim):
            assert kernel.coefficients(schedule.step(i))[1] == 0.0
            continue
        mean, tau = formula(s, n, schedule.sigmas[1], x, v)
        law = GaussianLaw.of([Move(kernel, i, i + 1)], schedule, CPU)
        tx, tv, ty = (torch.tensor(z, dtype=torch.float32) for z in (x, v, y))
        np.testing.assert_allclose(law.mean(tx, tv).numpy(), mean, atol=2e-6, rtol=1e-5)
        assert float(law.tau) == pytest.approx(tau, rel=1e-6)
        log_prob = (-((y - mean) ** 2) / (2 * tau**2) - math.log(tau) - 0.5 * math.log(2 * math.pi)).mean()
        assert float(law.log_prob(tx, tv, ty)) == pytest.approx(log_prob, rel=2e-5)
        other = v + 0.1
        kl = ((formula(s, n, schedule.sigmas[1], x, other)[0] - mean) ** 2).mean() / (2 * tau**2)
        assert float(law.kl(tx, tv, torch.tensor(other), ty)) == pytest.approx(kl, rel=1e-4)


def test_unscaled_cps_log_prob_is_the_published_one():
    schedule, rng = sd3_schedule(), np.random.default_rng(1)
    x, v, y = rng.standard_normal((3, 1, 64))
    law = GaussianLaw.of([Move(Cps(noise_level=0.8, log_prob="unscaled"), 2, 3)], schedule, CPU)
    near = GaussianLaw.of([Move(Cps(noise_level=0.8, log_prob="unscaled"), 2, 3)], schedule, CPU)
    tx, tv, ty = (torch.tensor(z, dtype=torch.float32) for z in (x, v, y))
    difference = float(law.log_prob(tx, tv, ty) - near.log_prob(tx, tv + 0.3, ty))
    mean = cps(schedule.sigmas[2], schedule.sigmas[3], 0, x, v)[0]
    shifted = cps(schedule.sigmas[2], schedule.sigmas[3], 0, x, v + 0.3)[0]
    assert difference == pytest.approx(-((y - mean) ** 2).mean() + ((y - shifted) ** 2).mean(), rel=1e-3)


def test_ode_is_euler():
    schedule = sd3_schedule()
    x, v = torch.randn(2, 1, 8)
    for i in range(10):
        law = GaussianLaw.of([Move(Ode(), i, i + 1)], schedule, CPU)
        dt = torch.tensor(schedule.sigmas[i + 1]) - torch.tensor(schedule.sigmas[i])
        assert torch.equal(law.sample(x[None], v[None], [Noise(("k",))], [None]), (x + dt * v)[None])


def test_ddim_on_a_diffusion_schedule_equals_diffusers():
    scheduler = DDIMScheduler(clip_sample=False, set_alpha_to_one=False)
    scheduler.set_timesteps(5)
    schedule = read_schedule(scheduler, Span(0, len(scheduler.timesteps)))
    x, v, noise = torch.randn(3, 1, 16)
    for i, t in enumerate(scheduler.timesteps):
        for kernel, eta in ((Ode(), 0.0), (Ddim(eta=0.7), 0.7)):
            law = GaussianLaw.of([Move(kernel, i, i + 1)], schedule, CPU)
            if i == 4 and eta:
                continue
            expected = scheduler.step(v, t, x, eta=eta, variance_noise=noise).prev_sample
            assert torch.allclose(law.mean(x, v) + law.tau * noise, expected, atol=2e-5)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_every_parameterization_recovers_both_ends(kind):
    alpha, sigma = 0.8, 0.6
    schedule = Schedule((alpha, 1.0), (sigma, 0.0), (500.0,), kind)
    x0, x1 = 0.3, -1.2
    output = {"epsilon": x1, "v_prediction": alpha * x1 - sigma * x0, "sample": x0}[kind]
    p0, q0, p1, q1 = schedule.ends(0)
    x = alpha * x0 + sigma * x1
    assert (p0 * x + q0 * output, p1 * x + q1 * output) == pytest.approx((x0, x1))


@pytest.mark.parametrize("kernel", [FlowSde(noise_level=0.7), DanceSde(eta=0.3), Calibrated(level=0.5)], ids=lambda k: k.type)
@pytest.mark.parametrize("first", [(0.0, 1.0), (0.28, 0.96)])
def test_the_sde_of_a_diffusion_model_is_that_of_the_flow_at_another_scale(kernel, first):
    """A state divided by alpha + sigma: with the same ends predicted, the step there is the same step."""
    alphas, sigmas = (first[0], 0.6, 0.8), (first[1], 0.8, 0.6)
    diffusion = Schedule(alphas, sigmas, (900.0, 500.0), "epsilon")
    flow_sigmas = tuple(s / (a + s) for a, s in zip(alphas, sigmas, strict=True))
    flow = Schedule(tuple(1 - s for s in flow_sigmas), flow_sigmas, (0.9, 0.5), "velocity")
    for i, x0, x1 in ((0, 0.3, -1.2), (1, 0.3, -1.2)):
        means, noises = [], []
        for schedule, scale in ((diffusion, 1.0), (flow, alphas[i + 1] + sigmas[i + 1])):
            step = schedule.step(i)
            c, tau = kernel.coefficients(step)
            means.append(scale * (step.alpha_next * x0 + c * x1))
            noises.append(scale * tau)
        assert means[0] == pytest.approx(means[1]) and noises[0] == pytest.approx(noises[1])


LINEAR = tuple(float(s) for s in np.linspace(1.0, 0.0, 401))
CIRCLE = tuple(math.sin(0.5 * math.pi * s) for s in LINEAR)
SCHEDULES = {
    "flow": Schedule(tuple(1 - s for s in LINEAR), LINEAR, LINEAR[:-1], "velocity"),
    "diffusion": Schedule(tuple(math.cos(0.5 * math.pi * s) for s in LINEAR), CIRCLE, LINEAR[:-1], "sample"),
}


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("kernel", [FlowSde(noise_level=0.7), DanceSde(eta=0.5), Ddim(eta=1.0)], ids=lambda k: k.type)
def test_the_marginal_is_kept_under_the_exact_prediction(kernel, schedule):
    """Data N(m, w^2): the exact prediction is known, and the variance after every step follows from the formulas.

    Discretisation errors fall with the number of steps; at 400 steps the final mean and variance are the data's.
    """
    m, w = 1.5, 0.6
    mean, variance = 0.0, 1.0
    for i in range(399):
        alpha, sigma = schedule.alphas[i], schedule.sigmas[i]
        total = alpha**2 * w**2 + sigma**2
        if schedule.parameterization == "velocity":
            slope = (sigma - alpha * w**2) / total
            offset = -m - slope * alpha * m
        else:
            slope = alpha * w**2 / total
            offset = m - slope * alpha * m
        law = GaussianLaw.of([Move(kernel, i, i + 1)], schedule, CPU)
        a, g, tau = float(law.a), float(law.g), float(law.tau)
        mean = (a + g * slope) * mean + g * offset
        variance = (a + g * slope) ** 2 * variance + tau**2
    assert mean == pytest.approx(m, abs=0.02)
    assert math.sqrt(variance) == pytest.approx(w, abs=0.02)


@pytest.mark.parametrize("kernel", [Cps(noise_level=0.8), Ddim(eta=0.6), Ode()], ids=lambda k: k.type)
def test_coefficients_preserve_the_noise_level(kernel):
    schedule = sd3_schedule()
    for i in range(10):
        c, tau = kernel.coefficients(schedule.step(i))
        assert math.hypot(c, tau) == pytest.approx(schedule.sigmas[i + 1], abs=1e-9)


def test_dpmpp_2m_equals_diffusers_solver():
    """Over the noise levels of a diffusion model, whose lambda is finite at both ends but for the last step."""
    scheduler = DPMSolverMultistepScheduler(
        algorithm_type="dpmsolver++", solver_type="midpoint", solver_order=2, final_sigmas_type="zero", lower_order_final=True
    )
    scheduler.set_timesteps(12)
    alphas = tuple(float((1.0 / (1.0 + s**2)) ** 0.5) for s in scheduler.sigmas)
    sigmas = tuple(float(s / (1.0 + s**2) ** 0.5) for s in scheduler.sigmas)
    schedule = Schedule(alphas, sigmas, tuple(float(t) for t in scheduler.timesteps), "epsilon")
    x = expected = torch.linspace(-2.0, 2.0, 16, dtype=torch.float64)[None]
    history: list[torch.Tensor | None] = [None]
    for i, t in enumerate(scheduler.timesteps):
        v = torch.tanh(0.3 * x) + 0.1 * i
        law = GaussianLaw.of([Move(DpmPp2m(), i, i + 1, i - 1 if i else None)], schedule, CPU)
        expected = scheduler.step(v, t, expected).prev_sample
        x, history = law.sample(x, v, [Noise(("k",))], history), [law.history(x, v)[0]]
        torch.testing.assert_close(x.double(), expected.double(), atol=1e-4, rtol=1e-4)


def test_dpmpp_2m_is_second_order_and_a_jump_of_it_is_exact_for_a_constant_velocity():
    """Data N(0, w^2): the error of the ODE solution falls with the square of the step, Euler's only with the step."""

    def final(kernel, steps):
        sigmas = (*np.linspace(1.0, 0.0, 257)[:: 256 // steps][:-1].tolist(), 0.0)
        schedule = Schedule(tuple(1 - s for s in sigmas), sigmas, sigmas[:-1], "velocity")
        x, history = torch.ones(1, 1, dtype=torch.float64), [None]
        for i in range(steps):
            a, s = schedule.alphas[i], schedule.sigmas[i]
            v = x * (s - a * 0.25) / (a**2 * 0.25 + s**2)
            law = GaussianLaw.of([Move(kernel, i, i + 1, i - 1 if i else None)], schedule, CPU)
            x, history = law.sample(x, v, [Noise(("k",))], history), [law.history(x, v)[0]]
        return abs(float(x) - 0.5)

    assert final(Ode(), 8) / final(Ode(), 16) < 2.6
    assert final(DpmPp2m(), 8) < 0.5 * final(Ode(), 8)
    assert final(DpmPp2m(), 8) / final(DpmPp2m(), 16) > 3.0


def test_a_calibrated_kernel_has_a_level_per_step():
    schedule = sd3_schedule()
    kernel = Calibrated(levels=tuple(0.1 * (i + 1) for i in range(10)))
    for i in range(10):
        step = schedule.step(i)
        c, tau = kernel.coefficients(step)
        assert tau == pytest.approx(0.1 * (i + 1) * math.sqrt(step.dt))
        assert c == pytest.approx(step.sigma_next - tau**2 / (2 * step.sigma))


def test_siblings_noise_has_unit_variance_and_the_stated_correlation():
    rho, shape = 1 / 17, torch.Size([200_000])
    a, b = (Noise((0, branch), (0, "siblings"), rho).draw(shape) for branch in (0, 1))
    assert float(a.var()) == pytest.approx(1.0, abs=0.02) and float(b.var()) == pytest.approx(1.0, abs=0.02)
    assert float((a * b).mean()) == pytest.approx(rho, abs=0.01)
    other = Noise((0, 2), (1, "siblings"), rho).draw(shape)
    assert float((a * other).mean()) == pytest.approx(0.0, abs=0.01)
    assert torch.equal(Noise((0, 0)).draw(shape), Noise((0, 0), None, 0.5).draw(shape))
