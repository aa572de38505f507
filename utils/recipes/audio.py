"""The checkpoint `audio`: which instrument is this? A small audio spectrogram transformer (AST) trained from scratch.

    python -m utils.recipes.audio        # about ten minutes on two CPU cores

The sounds are made here: ten kinds of instrument by textbook synthesis, each kind in many voices (its own overtones, attack,
vibrato, decay), with noise. Voices that measure are not those that train.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from scipy.signal import lfilter
from tqdm.auto import tqdm
from transformers import (
    ASTConfig,
    ASTFeatureExtractor,
    ASTForAudioClassification,
    AutoFeatureExtractor,
    AutoModelForAudioClassification,
    default_data_collator,
)

from utils.recipes.training import Result, batches, fit, options, save_model

NAME = "audio"
RATE = 16_000  # samples per second
SECONDS = 0.64
SAMPLES = int(RATE * SECONDS)
FRAMES, BINS = 64, 32
TRAIN_VOICES, TEST_VOICES, TAKES, TEST_TAKES = 60, 15, 6, 4
EPOCHS = 40


def _envelope(attack: float, decay: float) -> np.ndarray:
    t = np.arange(SAMPLES) / RATE
    return np.minimum(t / attack, 1) * np.exp(-decay * t)


def _overtones(frequency: float, strengths: np.ndarray, bend: np.ndarray | float = 0.0) -> np.ndarray:
    """A tone with the given strengths of its overtones; `bend` shifts its pitch over time, in radians."""
    t = np.arange(SAMPLES) / RATE
    wave = np.zeros(SAMPLES)
    for number, strength in enumerate(strengths, 1):
        if number * frequency < RATE / 2:
            wave += strength * np.sin(2 * np.pi * number * frequency * t + number * bend)
    return wave


def _vibrato(voice: np.random.Generator, depth: float) -> np.ndarray:
    t = np.arange(SAMPLES) / RATE
    return depth * np.sin(2 * np.pi * voice.uniform(4.5, 6.5) * t + voice.uniform(0, 6))


def flute(voice: np.random.Generator, take: np.random.Generator) -> np.ndarray:
    strengths = np.array([1, 0.35, 0.12, 0.04]) * voice.uniform(0.6, 1.4, 4)
    breath = lfilter([1], [1, -0.7], take.normal(0, 0.03 * voice.uniform(0.5, 2), SAMPLES))
    tone = _overtones(take.uniform(400, 1100), strengths, _vibrato(voice, voice.uniform(0.2, 0.8)))
    return (tone + breath) * _envelope(voice.uniform(0.04, 0.1), 0.2)


def clarinet(voice: np.random.Generator, take: np.random.Generator) -> np.ndarray:
    strengths = np.array([1, 0.04, 0.6, 0.05, 0.35, 0.05, 0.2, 0.03, 0.1]) * voice.uniform(0.6, 1.4, 9)
    return _overtones(take.uniform(180, 600), strengths) * _envelope(voice.uniform(0.03, 0.07), 0.2)


def violin(voice: np.random.Generator, take: np.random.Generator) -> np.ndarray:
    strengths = 1 / np.arange(1, 19) ** voice.uniform(0.8, 1.2) * voice.uniform(0.5, 1.5, 18)
    tone = _overtones(take.uniform(200, 800), strengths, _vibrato(voice, voice.uniform(0.5, 1.2)))
    return tone * _envelope(voice.uniform(0.06, 0.15), 0.1)


def trumpet(voice: np.random.Generator, take: np.random.Generator) -> np.ndarray:
    pitch, t = take.uniform(230, 700), np.arange(SAMPLES) / RATE
    wave = np.zeros(SAMPLES)
    brightness = voice.uniform(0.9, 1.6)
    for number in range(1, 15):  # higher overtones come later: this is what makes brass sound like brass
        if number * pitch < RATE / 2:
            rise = np.minimum(t / (0.02 + 0.008 * number * voice.uniform(0.8, 1.2)), 1)
            wave += rise * np.exp(-((number - 3.5 * brightness) ** 2) / 18) * np.sin(2 * np.pi * number * pitch * t)
    return wave * _envelope(0.02, 0.15)


def guitar(voice: np.random.Generator, take: np.random.Generator) -> np.ndarray:
    """A plucked string: noise that goes round a delay line (Karplus and Strong 1983, https://doi.org/10.2307/3680062)."""
    period = int(RATE / take.uniform(90, 400))
    blend = voice.uniform(0.4, 0.6)
    excitation = np.zeros(SAMPLES)
    excitation[:period] = take.uniform(-1, 1, period)
    feedback = np.zeros(period + 2)
    feedback[0], feedback[period], feedback[period + 1] = 1, -0.996 * blend, -0.996 * (1 - blend)
    return lfilter([1], feedback, excitation)


def piano(voice: np.random.Generator, take: np.random.Generator) -> np.ndarray:
    pitch, t = take.uniform(110, 800), np.arange(SAMPLES) / RATE
    stiffness, wave = voice.uniform(1e-4, 6e-4), np.zeros(SAMPLES)
    for number in range(1, 13):  # stiff strings: overtones are a little too high and die away faster
        high = number * pitch * np.sqrt(1 + stiffness * number**2)
        if high < RATE / 2:
            fall = np.exp(-(2 + 0.9 * number * voice.uniform(0.8, 1.2)) * t)
            wave += fall / number ** voice.uniform(0.9, 1.3) * np.sin(2 * np.pi * high * t)
    hammer = lfilter([1], [1, -0.85], take.normal(0, 0.2, SAMPLES)) * np.exp(-90 * t)
    return (wave + hammer) * _envelope(0.004, 0.5)


def bell(voice: np.random.Generator, take: np.random.Generator) -> np.ndarray:
    """Frequency modulation with a ratio that is no whole number (Chowning 1973)."""
    pitch, t = take.uniform(250, 900), np.arange(SAMPLES) / RATE
    index = voice.uniform(2, 5) * np.exp(-voice.uniform(2, 5) * t)
    wave = np.sin(2 * np.pi * pitch * t + index * np.sin(2 * np.pi * pitch * voice.choice([1.41, 1.73, 2.76]) * t))
    return wave * _envelope(0.002, voice.uniform(1.5, 4))


def drum(voice: np.random.Generator, take: np.random.Generator) -> np.ndarray:
    t = np.arange(SAMPLES) / RATE
    pitch = take.uniform(60, 160) * (1 + voice.uniform(0.5, 1.5) * np.exp(-30 * t))
    skin = np.sin(2 * np.pi * np.cumsum(pitch) / RATE) * np.exp(-voice.uniform(6, 14) * t)
    return skin + voice.uniform(0.1, 0.4) * take.normal(0, 1, SAMPLES) * np.exp(-voice.uniform(25, 60) * t)


def organ(voice: np.random.Generator, take: np.random.Generator) -> np.ndarray:
    stops = np.zeros(16)
    stops[[0, 1, 3, 7]] = voice.uniform(0.3, 1, 4)
    stops[[2, 5]] = voice.uniform(0, 0.5, 2)
    chord = take.uniform(110, 300) * np.array([1, voice.choice([1.2, 1.25, 1.5])])
    return sum(_overtones(pitch, stops) for pitch in chord) * _envelope(0.01, 0.05)


def voice(voice: np.random.Generator, take: np.random.Generator) -> np.ndarray:
    """A sung vowel: a buzz sent through three resonances of the mouth."""
    buzz = _overtones(take.uniform(110, 350), np.ones(40) / np.arange(1, 41), _vibrato(voice, voice.uniform(0.3, 0.9)))
    vowels = [(730, 1090, 2440), (270, 2290, 3010), (300, 870, 2240), (530, 1840, 2480), (570, 840, 2410)]
    for formant in np.array(vowels[take.integers(len(vowels))]) * voice.uniform(0.88, 1.15):
        radius = np.exp(-np.pi * 90 / RATE)
        buzz = lfilter([1 - radius], [1, -2 * radius * np.cos(2 * np.pi * formant / RATE), radius**2], buzz)
        buzz /= np.abs(buzz).max()
    return buzz * _envelope(voice.uniform(0.05, 0.12), 0.2)


INSTRUMENTS: list[Callable] = [flute, clarinet, violin, trumpet, guitar, piano, bell, drum, organ, voice]
LABELS = [instrument.__name__ for instrument in INSTRUMENTS]


def sound(label: str, voice_number: int, take_number: int) -> np.ndarray:
    """One sound between -1 and 1: (SAMPLES,), 16 kHz. The same numbers always give the same sound.

    Args:
        voice_number: which flute, which violin; from 0, `TRAIN_VOICES` on measure.
        take_number: another pitch, another noise.
    """
    kind = LABELS.index(label)
    take = np.random.default_rng([kind, voice_number, take_number])
    wave = INSTRUMENTS[kind](np.random.default_rng([kind, voice_number]), take)
    wave = wave / np.abs(wave).max() * take.uniform(0.3, 0.9)
    noise = take.normal(0, 1, SAMPLES) * np.sqrt((wave**2).mean()) * 10 ** (-take.uniform(8, 30) / 20)  # 8 to 30 dB
    wave = np.roll(wave + noise, take.integers(0, RATE // 20))
    return np.clip(wave, -1, 1).astype(np.float32)


def examples(test: bool) -> list[tuple[np.ndarray, int]]:
    """(sound, label) for training or for measuring, in an order that mixes the instruments."""
    voices = range(TRAIN_VOICES, TRAIN_VOICES + TEST_VOICES) if test else range(TRAIN_VOICES)
    return [
        (sound(label, number, take), kind)
        for take in range(TEST_TAKES if test else TAKES)
        for number in voices
        for kind, label in enumerate(LABELS)
    ]


def main() -> None:
    arguments = options(__doc__, NAME, needs_data=False)
    extractor = ASTFeatureExtractor(num_mel_bins=BINS, max_length=FRAMES, mean=-0.3, std=1.75)
    names = dict(enumerate(LABELS))
    model = ASTForAudioClassification(
        ASTConfig(
            hidden_size=96,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=192,
            patch_size=8,
            frequency_stride=8,
            time_stride=8,
            max_length=FRAMES,
            num_mel_bins=BINS,
            hidden_dropout_prob=0.1,
            id2label=names,
            label2id={label: i for i, label in names.items()},
        )
    )
    sounds = examples(test=False)
    rows = []
    for chunk in tqdm(list(batches(sounds)), desc="spectrograms"):
        frames = extractor([wave for wave, _ in chunk], sampling_rate=RATE, return_tensors="pt")["input_values"]
        rows += [{"input_values": f, "labels": label} for f, (_, label) in zip(frames, chunk, strict=True)]
    print(f"{len(rows):,} sounds, {model.num_parameters() / 1e6:.2f} million parameters")

    fit(model, rows, default_data_collator, NAME, epochs=EPOCHS, learning_rate=1e-3, batch_size=64)
    save_model(model, extractor, arguments.output)


@torch.inference_mode()
def results(path: str, data: Path | None) -> list[Result]:
    """Accuracy on voices that were not used for training."""
    extractor = AutoFeatureExtractor.from_pretrained(path)
    model = AutoModelForAudioClassification.from_pretrained(path).eval()
    sounds, right = examples(test=True), 0
    for chunk in batches(sounds):
        inputs = extractor([wave for wave, _ in chunk], sampling_rate=RATE, return_tensors="pt")
        right += (model(**inputs).logits.argmax(-1) == torch.tensor([label for _, label in chunk])).sum().item()
    return [(f"held-out voices, {len(sounds)} sounds, accuracy, %", 100 * right / len(sounds))]


if __name__ == "__main__":
    main()
