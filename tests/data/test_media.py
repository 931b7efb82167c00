"""Pictures and clips of odd kinds: one reader, which sees what a person sees, and one writer, which rounds as diffusers does."""

import inspect
import io
import struct
import sys
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
import torch
from diffusers.image_processor import VaeImageProcessor
from PIL import Image, ImageFile

from flowgrpo.core.errors import UserError
from flowgrpo.data.media import frames_of, look, read, save_sample
from flowgrpo.data.prompts import Prompt
from flowgrpo.data.samples import Samples
from flowgrpo.policies.diffusers._conditions import Rows
from flowgrpo.rewards._pixels import pixels
from flowgrpo.scoring.scorer import load_reward
from flowgrpo.scoring.serving.pictures import Reader, png

BLUE = (0, 0, 255)
TURNED = Image.Exif()
TURNED[0x0112] = 6


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def hidden(mode, colour):
    """A blue pixel on what is transparent and has another colour."""
    picture = Image.new("RGBA", (8, 8), (*colour, 0))
    picture.putpixel((4, 4), (*BLUE, 255))
    return picture.convert(mode)


def palette():
    picture = Image.new("P", (8, 8))
    picture.putpalette([240, 30, 10, *BLUE])
    picture.putpixel((4, 4), 1)
    return picture


ODD = {
    "rgba.png": (hidden("RGBA", (240, 30, 10)), {}),
    "rgba.webp": (hidden("RGBA", (240, 30, 10)), {"lossless": True, "exact": True}),
    "rgba.tif": (hidden("RGBA", (0, 0, 0)), {}),
    "palette.png": (palette(), {"transparency": 0}),
    "palette.gif": (palette(), {"transparency": 0}),
    "colour_key.png": (hidden("RGB", (240, 30, 10)), {"transparency": (240, 30, 10)}),
}
"""All are a blue pixel at (4, 4) on white."""


@pytest.fixture(params=ODD)
def odd(request, tmp_path):
    picture, options = ODD[request.param]
    picture.save(tmp_path / request.param, **options)
    return tmp_path / request.param


def is_blue_on_white(found):
    expected = np.full((8, 8, 3), 255)
    expected[4, 4] = BLUE
    return (np.asarray(found) == expected).all()


def test_what_is_transparent_lies_on_white_wherever_it_is_read(odd):
    assert is_blue_on_white(read(odd))
    (reference,) = load_reward("reference:Pixels", {"folder": str(odd.parent)}).references(asking_for(odd.name, (8, 8)))
    assert is_blue_on_white(reference.permute(1, 2, 0) * 255)
    rows = Rows("P", inspect.signature(lambda prompt, image, num_images_per_prompt=1: None).parameters)
    assert is_blue_on_white(rows.arguments([Prompt(0, "p", {}, {"image": odd})])["image"])
    if odd.suffix in (".png", ".webp"):
        assert is_blue_on_white(Reader(64).picture(odd.read_bytes()).permute(1, 2, 0))


def asking_for(name, size):
    return Samples(["p"], [{"reference": name}], [0], torch.zeros(1, 3, *size))


def test_half_transparent_is_half_white(tmp_path):
    Image.new("LA", (2, 2), (0, 51)).save(tmp_path / "a.png")
    assert (read(tmp_path / "a.png") == 204).all()


@pytest.mark.parametrize("name", ["turned.png", "turned.jpg", "turned.webp"])
def test_pictures_are_turned_wherever_they_are_read(tmp_path, name):
    picture = Image.new("RGB", (16, 8))
    picture.paste("white", (0, 0, 8, 8))
    picture.save(tmp_path / name, exif=TURNED, quality=95)
    found = read(tmp_path / name)
    assert found.shape == (16, 8, 3) and (found[:, 4, 0] > 128).tolist() == [True] * 8 + [False] * 8
    assert Reader(128).picture((tmp_path / name).read_bytes()).shape == (3, 16, 8)
    reference = load_reward("reference:Pixels", {"folder": str(tmp_path)}).references(asking_for(name, (16, 8)))
    assert reference[0, 0, :, 4].round().tolist() == [1.0] * 8 + [0.0] * 8


@pytest.mark.parametrize(
    "picture, colour",
    [
        (Image.new("L", (4, 4), 77), (77, 77, 77)),
        (Image.new("1", (4, 4), 1), (255, 255, 255)),
        (Image.new("CMYK", (4, 4), (0, 255, 255, 0)), (255, 0, 0)),
        (palette().crop((4, 4, 5, 5)), BLUE),
    ],
)
def test_colour_modes_become_rgb(tmp_path, picture, colour):
    picture.save(tmp_path / "a.tif")
    assert (read(tmp_path / "a.tif") == colour).all()


@pytest.mark.parametrize(
    "name, pixels",
    [
        ("grey.png", np.full((4, 4), 40_000, np.uint16)),
        ("rgb.png", np.full((4, 4, 3), 40_000, np.uint16)),
        ("rgba.png", np.full((4, 4, 4), 40_000, np.uint16)),
        ("rgb.tif", np.full((4, 4, 3), 40_000, np.uint16)),
        ("float.tif", np.full((4, 4), 0.5, np.float32)),
    ],
)
def test_more_than_8_bits_are_refused_rather_than_cut(tmp_path, name, pixels):
    cv2.imwrite(str(tmp_path / name), pixels)
    with pytest.raises(UserError, match="save it with 8"):
        read(tmp_path / name)
    if name.endswith("png"):
        with pytest.raises(UserError, match=r"this picture has .*; save it with 8"):
            Reader(64).picture((tmp_path / name).read_bytes())
        with pytest.raises(UserError, match="8 bits per channel"):
            load_reward("reference:Pixels", {"folder": str(tmp_path)})(asking_for(name, (4, 4)))


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png", "a.tif"])
def test_where_one_picture_is_wanted_several_are_refused(tmp_path, name):
    first, second = (Image.fromarray(noise(8, 8, 3, seed=i)) for i in range(2))
    first.save(tmp_path / name, save_all=True, append_images=[second])
    with pytest.raises(UserError, match="has 2 frames or pages, and one picture is wanted"):
        read(tmp_path / name, "image")
    with pytest.raises(UserError, match="one frame"):
        load_reward("reference:Pixels", {"folder": str(tmp_path)})(asking_for(name, (8, 8)))
    if name in ("a.webp", "a.png"):
        with pytest.raises(UserError, match="this picture has 2 frames"):
            Reader(10_000).picture((tmp_path / name).read_bytes())
    if name == "a.tif":
        with pytest.raises(UserError, match="has 2 pages"):
            read(tmp_path / name)


@pytest.mark.parametrize("form, name", [("JPEG", "a.jpg"), ("PNG", "a.png"), ("WEBP", "a.webp"), ("BMP", "a.bmp")])
def test_half_a_picture_is_refused_even_where_a_reward_wants_it(tmp_path, monkeypatch, form, name):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    buffer = io.BytesIO()
    Image.fromarray(noise(64, 64, 3)).save(buffer, form)
    (tmp_path / name).write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    with pytest.raises(UserError, match="can't be read"):
        read(tmp_path / name)


@pytest.mark.parametrize(
    "form, name", [("JPEG", "a.jpg"), ("PNG", "a.png"), ("WEBP", "a.webp"), ("BMP", "a.bmp"), ("TIFF", "a.tif")]
)
@pytest.mark.parametrize("tail", [b"", b"more"])
def test_a_look_finds_what_reading_would_find(tmp_path, form, name, tail):
    buffer, path = io.BytesIO(), tmp_path / name
    Image.fromarray(noise(64, 64, 3)).save(buffer, form)
    path.write_bytes(buffer.getvalue() + tail)
    look(path, "image")
    path.write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    with pytest.raises(UserError, match=f"{name} can't be read"):
        look(path, "image")


@pytest.mark.parametrize("path", ["x" * 5000 + ".png", "data:image/png;base64," + "A" * 5000, "a\0b.png", "", "folder.png"])
def test_a_path_that_can_not_be_is_no_such_file(tmp_path, path):
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(UserError, match="no such file") as caught:
        read(tmp_path / path)
    assert len(str(caught.value)) < 300


# What is written.


def samples_of(made):
    return Samples(["p"] * len(made), [{}] * len(made), list(range(len(made))), made)


def test_pixels_are_rounded_as_diffusers_and_rewards_do(tmp_path):
    made = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    made[0, 0, 0, :3] = torch.tensor([0.9999, -0.5, 1.5])
    theirs = VaeImageProcessor.numpy_to_pil(made.clamp(0, 1).permute(0, 2, 3, 1).numpy())
    for i, shown in enumerate(samples_of(made).shown()):
        save_sample(shown, tmp_path, "a")
        written = read(tmp_path / "a.png")
        assert (written == np.asarray(theirs[i])).all() and (written == pixels(made)[i]).all()
        assert (Reader(2000).picture(png(made[i])).permute(1, 2, 0).numpy() == written).all()


def test_every_level_comes_back(tmp_path):
    made = (torch.arange(256).float() / 255).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    save_sample(samples_of(made).shown()[0], tmp_path, "a")
    assert read(tmp_path / "a.png")[..., 0].ravel().tolist() == list(range(256))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_pixels_that_are_no_numbers_are_not_written_as_black(value):
    made = torch.full((2, 3, 8, 8), 0.3)
    made[1, 2, 3, 4] = value
    for write in (
        lambda: samples_of(made).shown(),
        lambda: samples_of(made[None]).shown(),
        lambda: png(made[1]),
        lambda: pixels(made),
    ):
        with pytest.raises(UserError, match="no finite numbers"):
            write()


# Clips.

ORDERS = {
    "all differ": [0, 1, 2, 3],
    "a pause": [0, 1, 2, 2, 2, 3, 4],
    "all equal": [0] * 9,
    "pairs": [0, 0, 1, 1, 2, 2],
    "the end is held": [0, 1, 1, 1, 1],
    "one": [0],
}


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS.keys())
@pytest.mark.parametrize("size", [(32, 32), (17, 33)])
def test_a_written_clip_comes_back_frame_for_frame(tmp_path, order, size):
    made = torch.from_numpy(noise(5, *size, 3)).permute(0, 3, 1, 2)[order] / 255
    (shown,) = samples_of(made[None]).shown()
    assert save_sample(shown, tmp_path, "a") == {"video": "a.webp"}
    assert (read(tmp_path / "a.webp", "video") == pixels(made)).all() and len(frames_of(tmp_path / "a.webp")) == len(order)
    with Image.open(tmp_path / "a.webp") as file:
        assert file.n_frames == len(order) and (len(order) == 1 or file.info["loop"] == 0)


@pytest.mark.parametrize("duration", [33.4, 40, 100, 125, 166.7])
@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png"])
def test_equal_frames_that_an_encoder_stores_once_count_each(tmp_path, name, duration):
    order = ORDERS["a pause"]
    frames = [Image.new("RGB", (16, 16), (40 * i,) * 3) for i in order]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], duration=round(duration), lossless=True)
    with Image.open(tmp_path / name) as file:
        assert file.n_frames == 5
    assert read(tmp_path / name)[:, 0, 0, 0].tolist() == [40 * i for i in order]


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png"])
def test_a_clip_that_an_encoder_made_one_picture_of_is_no_clip(tmp_path, name):
    frames = [Image.new("RGB", (16, 16), "red")] * 9
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], duration=100, lossless=True)
    with pytest.raises(UserError, match="is one picture, and a clip is wanted"):
        read(tmp_path / name, "video")


@pytest.mark.parametrize("durations", [[70, 70, 1000], [50, 70, 50], [0, 100, 100]])
def test_a_clip_without_a_constant_rate_is_refused(tmp_path, durations):
    frames = [Image.new("RGB", (16, 16), (40 * i,) * 3) for i in range(3)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=durations)
    with pytest.raises(UserError, match="which are not multiples of one duration"):
        read(tmp_path / "a.gif")


def test_a_still_that_only_some_see_is_no_frame_of_a_png(tmp_path):
    still, *frames = (Image.new("RGB", (16, 16), (40 * i,) * 3) for i in range(4))
    still.save(tmp_path / "a.png", save_all=True, append_images=frames, default_image=True, duration=100)
    assert read(tmp_path / "a.png")[:, 0, 0, 0].tolist() == [40, 80, 120]


COLOURS = {"mjpeg": "yuvj420p", "huffyuv": "yuv422p"}
OPTIONS = {"ffv1": {"level": "3", "slicecrc": "1"}}


def film(path, code):
    """40 frames of noise that moves."""
    picture = noise(64, 64, 3)
    with av.open(str(path), "w") as container:
        colours = COLOURS.get(code, "yuv420p")
        size = {"width": 64, "height": 64, "bit_rate": 4_000_000}
        stream = container.add_stream(code, Fraction(24_000, 1001), pix_fmt=colours, options=OPTIONS.get(code, {}), **size)
        for i in range(40):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.roll(picture, i, 0), "rgb24")))
        container.mux(stream.encode())
    return path.read_bytes()


FILMS = {
    "a.avi": "mpeg4",
    "b.avi": "ffv1",
    "c.mp4": "mpeg4",
    "d.mov": "mpeg4",
    "e.mkv": "mpeg4",
    "f.webm": "libvpx",
    "g.avi": "mjpeg",
}


@pytest.mark.parametrize("name, code", FILMS.items())
def test_a_film_is_read_whole_or_not_at_all(tmp_path, capfd, name, code):
    whole, path = film(tmp_path / name, code), tmp_path / name
    capfd.readouterr()
    print("said by others", file=sys.stderr)
    assert read(path).shape == (40, 64, 64, 3)
    middle = len(whole) // 2
    for damaged in (whole[:middle], whole[:middle] + b"\0" * 2000 + whole[middle + 2000 :], whole[: -len(whole) // 50], b""):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"(is damaged|no frame that can be read|where its header says|does not say)"):
            read(path)
    assert capfd.readouterr().err == "said by others\n"


def test_a_film_is_turned_as_players_do(tmp_path):
    """Its header says a quarter to the right: what is on the left is seen above."""
    writer = cv2.VideoWriter(str(tmp_path / "a.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 8, (64, 32))
    left = np.zeros((32, 64, 3), np.uint8)
    left[:, :32] = 255
    for _ in range(3):
        writer.write(left)
    writer.release()
    content = (tmp_path / "a.mp4").read_bytes()
    matrix = content.index(b"tkhd") + 4 + 40
    quarter = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 32 << 16, 0, 1 << 30)
    (tmp_path / "a.mp4").write_bytes(content[:matrix] + quarter + content[matrix + 36 :])
    frames = read(tmp_path / "a.mp4")
    assert frames.shape == (3, 64, 32, 3) and frames[:, :24].min() > 200 and frames[:, 40:].max() < 50


def test_what_is_transparent_in_a_film_lies_on_white(tmp_path):
    with av.open(str(tmp_path / "a.mov"), "w") as container:
        stream = container.add_stream("png", rate=8, width=16, height=16, pix_fmt="rgba")
        pixels = np.zeros((16, 16, 4), np.uint8)
        pixels[8:] = (200, 0, 0, 255)
        for _ in range(2):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgba")))
        container.mux(stream.encode())
    frames = read(tmp_path / "a.mov")
    assert (frames[:, :8] == 255).all() and (frames[:, 8:] == (200, 0, 0)).all()


def test_a_film_without_a_constant_rate_is_refused(tmp_path):
    for name, times in (("even.mp4", range(8)), ("wavers.mp4", (0, 1, 2.1, 3, 4)), ("pause.mp4", (0, 1, 2, 3, 7, 8))):
        with av.open(str(tmp_path / name), "w") as container:
            stream = container.add_stream("mpeg4", rate=8, width=16, height=16, pix_fmt="yuv420p")
            stream.codec_context.time_base = Fraction(1, 80)
            for time in times:
                frame = av.VideoFrame.from_ndarray(np.full((16, 16, 3), 20 * round(time), np.uint8), "rgb24")
                frame.pts, frame.time_base = round(10 * time), Fraction(1, 80)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    assert len(read(tmp_path / "even.mp4")) == 8 and len(read(tmp_path / "wavers.mp4")) == 5
    with pytest.raises(UserError, match=r"has frames of 125 to 500 ms; write it anew with a constant rate"):
        read(tmp_path / "pause.mp4")


def test_sound_alone_is_no_film(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=48_000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        sound.sample_rate = 48_000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    with pytest.raises(UserError, match="no frame that can be read"):
        read(tmp_path / "a.mp4")


@pytest.mark.parametrize("code", ["mjpeg", "huffyuv"])
def test_films_that_end_within_a_frame_are_refused_every_time(tmp_path, code):
    """One decoder says so, in the same words of every film. The other takes what is left of the frame."""
    path = tmp_path / "a.avi"
    whole = film(path, code)
    assert len(read(path)) == 40
    path.write_bytes(whole[: -len(whole) // 50])
    for _ in range(3):
        with pytest.raises(UserError, match="is damaged"):
            read(path)


def test_a_changed_byte_is_seen_where_the_format_can_tell(tmp_path):
    for name, code in (("a.avi", "ffv1"), ("b.mp4", "mpeg4"), ("c.avi", "mjpeg")):
        content = bytearray(film(tmp_path / name, code))
        content[len(content) // 2] ^= 0xFF
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match="is damaged"):
            read(tmp_path / name)


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png"])
def test_half_an_animation_is_refused(tmp_path, name):
    first, *rest = (Image.fromarray(noise(32, 32, 3, seed=i)) for i in range(6))
    first.save(tmp_path / name, save_all=True, append_images=rest, duration=100, lossless=True)
    whole = (tmp_path / name).read_bytes()
    assert len(read(tmp_path / name)) == 6
    for cut in (len(whole) // 2, len(whole) - 40, len(whole) - len(whole) // 6):
        (tmp_path / name).write_bytes(whole[:cut])
        with pytest.raises(UserError, match=r"(can't be read|was cut)"):
            read(tmp_path / name)


def test_a_gif_that_ends_between_two_frames_is_refused(tmp_path):
    frames = [Image.new("RGB", (8, 8), (i, 0, 0)) for i in (10, 200)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=100)
    whole = (tmp_path / "a.gif").read_bytes()
    (tmp_path / "a.gif").write_bytes(whole[:-1])
    with pytest.raises(UserError, match="was cut"):
        read(tmp_path / "a.gif")


def test_a_film_without_end_is_not_read_to_the_end(tmp_path, monkeypatch, capfd):
    film(tmp_path / "a.avi", "mjpeg")
    monkeypatch.setattr("flowgrpo.data.media.MOST_PIXELS", 10 * 64 * 64)
    with pytest.raises(UserError, match="more than 40,960 pixels"):
        read(tmp_path / "a.avi")
    print("still heard", file=sys.stderr)
    assert capfd.readouterr().err == "still heard\n"
