"""What can't be derived from a pipeline, by the names of classes and of arguments. Everything else is."""

TEXT = ("prompt", "content_prompt")
"""Arguments that take a sample's text."""

CONDITIONS = {
    "image": ("image", "control_image", "reference_image", "input_images"),
    "images": ("images", "image", "reference_images", "input_images", "control_image"),
    "video": ("video", "control_video", "conditioning_frames"),
}
"""Arguments that a prompt row's picture, pictures or clip can be for, the first that a pipeline has. Other columns are for the
argument of their name."""

LISTED = ("input_images",)
"""Arguments that take a list of pictures for each sample."""

DECODERS = ("ConsistencyDecoderVAE", "PaellaVQModel", "VQModel")
"""Models that make pictures of latents without being called autoencoders."""

REPEATED = frozenset(
    {
        "AnimateDiffVideoToVideoControlNetPipeline",
        "AnimateDiffVideoToVideoPipeline",
        "CogVideoXFunControlPipeline",
        "CogVideoXImageToVideoPipeline",
        "CogVideoXVideoToVideoPipeline",
        "ConsisIDPipeline",
        "Cosmos2VideoToWorldPipeline",
        "HunyuanSkyreelsImageToVideoPipeline",
        "HunyuanVideoFramepackPipeline",
        "HunyuanVideoImageToVideoPipeline",
        "I2VGenXLPipeline",
        "JoyImageEditPlusPipeline",
        "Kandinsky5I2IPipeline",
        "Kandinsky6TI2VAPipeline",
        "LTX2ImageToVideoPipeline",
        "LTXImageToVideoPipeline",
        "LucyEditPipeline",
        "PIAPipeline",
        "SkyReelsV2DiffusionForcingVideoToVideoPipeline",
        "StableDiffusion3Img2ImgPipeline",
        "StableDiffusion3PAGImg2ImgPipeline",
        "StableDiffusionAdapterPipeline",
        "StableDiffusionLatentUpscalePipeline",
        "StableDiffusionUpscalePipeline",
        "StableDiffusionXLAdapterPipeline",
        "StableVideoDiffusionPipeline",
        "ZImageControlNetInpaintPipeline",
    }
)
"""Pipelines that want a condition once for each sample."""

SINGLE = frozenset(
    {
        "AnimateDiffControlNetPipeline",
        "Cosmos2_5_PredictBasePipeline",
        "Cosmos3OmniPipeline",
        "DreamLiteMobilePipeline",
        "DreamLitePipeline",
        "HunyuanVideo15ImageToVideoPipeline",
        "HunyuanVideo15Pipeline",
        "MotifVideoImage2VideoPipeline",
        "PRXPipeline",
        "PRXPixelPipeline",
        "QwenImageLayeredPipeline",
        "SanaWMPipeline",
        "WanVACEPipeline",
    }
)
"""Pipelines that make one sample a call."""

ONE_TEXT = frozenset(
    {
        "Cosmos3OmniPipeline",
        "DreamLiteMobilePipeline",
        "DreamLitePipeline",
        "LongCatImageEditPipeline",
        "QwenImageEditInpaintPipeline",
        "QwenImageEditPipeline",
        "QwenImageEditPlusPipeline",
        "SanaWMPipeline",
        "VisualClozeGenerationPipeline",
        "WanVACEPipeline",
    }
)
"""Pipelines that take one text a call, and a number of samples."""

REFUSES_LONG = frozenset({"Ideogram4Pipeline"})
"""Pipelines whose code refuses a prompt that is too long, where others cut it."""

CUTS: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(
        (
            "IFPipeline",
            "IFImg2ImgPipeline",
            "IFImg2ImgSuperResolutionPipeline",
            "IFInpaintingPipeline",
            "IFInpaintingSuperResolutionPipeline",
            "IFSuperResolutionPipeline",
            "LDMTextToImagePipeline",
        ),
        (77,),
    ),
    **dict.fromkeys(("HunyuanDiTControlNetPipeline", "HunyuanDiTPAGPipeline", "HunyuanDiTPipeline"), (77, 256)),
    **dict.fromkeys(("Kandinsky3Img2ImgPipeline", "Kandinsky3Pipeline"), (128,)),
    **dict.fromkeys(
        ("EasyAnimateControlPipeline", "EasyAnimateInpaintPipeline", "EasyAnimatePipeline", "LuminaPipeline"), (256,)
    ),
    **dict.fromkeys(("LongCatImageEditPipeline", "LongCatImagePipeline"), (512,)),
    **dict.fromkeys(("HunyuanImagePipeline", "HunyuanVideo15ImageToVideoPipeline", "HunyuanVideo15Pipeline"), (1000,)),
    "HunyuanImageRefinerPipeline": (256,),
    "LattePipeline": (120,),
}
"""Tokens at which a pipeline's code cuts a prompt, where neither call nor tokenizer says so; of the second one as well."""

SIGNED = frozenset({"IFPipeline", "IFImg2ImgPipeline", "IFInpaintingPipeline", "PRXPixelPipeline"})
"""Pipelines whose tensors of pixels lie in [-1, 1]."""

PRIMED = frozenset({"Flux2KleinKVPipeline"})
"""Pipelines whose first iteration fills a cache that later ones read."""

REFUSED: dict[str, str] = {
    **dict.fromkeys(
        (
            "SkyReelsV2DiffusionForcingPipeline",
            "SkyReelsV2DiffusionForcingImageToVideoPipeline",
            "SkyReelsV2DiffusionForcingVideoToVideoPipeline",
        ),
        "each of its frames has a noise level and a scheduler of its own",
    ),
    **dict.fromkeys(
        ("AnyFlowFARPipeline", "HeliosPipeline", "HeliosPyramidPipeline", "LTXI2VLongMultiPromptPipeline"),
        "it makes its clip chunk by chunk, each a sampling of its own",
    ),
    "CosmosTextToWorldPipeline": "it steps its scheduler twice in each iteration, the second time from the first one's outcome",
    "CosmosVideoToWorldPipeline": "it steps its scheduler twice in each iteration, the second time from the first one's outcome",
    "StableDiffusionGLIGENPipeline": "it switches its grounding layers off for good in the middle of a sampling run",
}
"""Pipelines whose steps are not steps of one chain over their latents, and why."""

UNCONDITIONED = {
    "Cosmos2_5_PredictBasePipeline": "it takes the velocity of its conditioning frames from the noise that it started with",
}
"""Pipelines whose steps are such only without pictures and clips to work from, and why."""

DIVIDED = frozenset(
    {
        "ChronoEditTransformer3DModel",
        "Flux2Transformer2DModel",
        "FluxTransformer2DModel",
        "QwenImageTransformer2DModel",
        "WanTransformer3DModel",
    }
)
"""Networks whose gradient, summed over processes that divide its sequences, is the whole one: a test compares them. Others have a
plan in diffusers too, which is made for predictions alone."""
