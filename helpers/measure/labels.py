"""How every table and figure writes the names of the ledger and of the profiles: one `label` for all."""

import re

# An ending says what is special about an attack, or about a defense.
ENDINGS = {
    "_own_targeted": "-T (ours)",
    "_targeted": "-T",
    "_big": " ε′",
    "_03": " ε 0.3",
    "_40": "-40",
    "_seen": " (seen)",
    "_own": " (ours)",
    "_eq14": " (Eq. 14)",
    "_eot": " + EOT",
    "_rand": " rand",
    "_re": "-re",
    "_clean": "",
    "_nat": "",
    "_adv": ", adversarially trained",
    "_at": ", AT",
    "_mart": ", MART",
    "_mma": ", MMA",
    "_trades": ", TRADES",
    "-fooling": ", fooling rate",
}

# Names as they are, then what may be followed by an ending (attacks) or by a set of seen attacks (defenses).
NAMES = {
    "unstated": "not stated",
    "lid": "LID detector",
    # data sets and targets
    "mnist": "MNIST",
    "fashion_mnist": "Fashion-MNIST",
    "cifar10": "CIFAR-10",
    "svhn": "SVHN",
    "lisa": "LISA",
    "lenet5": "LeNet-5",
    "fashion_cnn": "CNN",
    "svhn_cnn": "CNN",
    "lisa_cnn": "CNN",
    "resnet18_quarter": "slim ResNet-18",
    "resnet18_eighth": "slim ResNet-18",
    "resnet110": "ResNet-110",
    "wrn28_20": "WRN-28-20",
    "vgg19": "VGG-19",
    "standard": "Standard",
    "natural_target": "natural target",
    "retrained": "retrained target",
    "cnn": "CNN",
    "narrow": "narrow LeNet",
    "vgg": "VGG",
    "wrn": "WRN",
    # threats and metrics
    "gray_box": "gray box",
    "white_box": "white box",
    "bpda": "BPDA",
    "bpda_eot": "BPDA + EOT",
    "fixed_mask": "fixed mask",
    "error_rate": "errors",
    "success_rate": "success (errors)",
    "fooling_rate": "fooling rate",
    "targeted_accuracy": "accuracy, targeted",
    "roc_auc": "ROC AUC",
    "l1_distance": "ℓ1 distance",
    "epoch_seconds": "seconds an epoch",
    "time_ratio": "time, as a factor",
    # defenses whose last letters are no set of seen attacks
    "add_sp": "ADD-S",
    "add_s": "ADD-S",
    "add_pp3": "ADD-PP, ε 0.3",
    "ape_gan_p": "APE-GAN",
    "hgd_p": "HGD",
    "nrp_ssp": "NRP",
}

# Those that are written in capitals.
SHORT_ATTACKS = "fgsm pgd cw ddn aa jsma sta fwa ap1 ap2 ap3 ap4 dlr mi vni fab rp2 roa"
SHORT_DEFENSES = "at trades mma mart doa rs hgd nrp arn add jatp dir ebm crown ibp hydra"

ATTACKS = {
    **{name: name.upper() for name in SHORT_ATTACKS.split()},
    "pgd_dlr": "PGD on DLR",
    "pgd_eot": "PGD + EOT",
    "ba": "boundary",
    "lsa": "local search",
    "mi_fgsm": "MI-FGSM",
    "vni_fgsm": "VNI-FGSM",
    "ti_bim": "TI-BIM",
    "apgd_ce": "APGD-CE",
    "apgd_dlr": "APGD-DLR",
    "square": "Square",
    "feature": "features",
    "feature_pgd": "features",
    "code": "codes",
    "code_pgd": "codes",
    "mask_adaptive": "mask-adaptive",
    **{f"mask{number}": f"mask {number}" for number in range(1, 6)},
}

DEFENSES = {
    **{name: name.upper() for name in SHORT_DEFENSES.split()},
    "at_pgd": "AT",
    "at_fgsm": "Def-adv",
    "doa_7x7": "DOA 7×7",
    "doa_9x5": "DOA 9×5",
    "ape_gan": "APE-GAN",
    "ape_gan_d": "APE-GAN-D",
    "arn_released": "ARN as released",
    "ours_eps0.3": "ADD, trained at 0.3",
    "ours_eps0.1": "ADD, trained at 0.1",
    "jatp_prime": "JATP′",
    "dir_joint": "DIR, joint",
    "dir_pretraining": "DIR's pre-training",
    "me_net": "ME-Net",
    "me_net_a": "ME-Net + AT",
    "fast": "Fast AT",
    "unlabeled": "AT + unlabeled",
    # DIR, Section 4.3 and Table 5
    **{f"hidden_{share}": f"DIR, {share} % hidden" for share in (30, 50, 70)},
    "pretraining": "DIR, pre-trained",
    "no_pretraining": "DIR, no pre-training",
    **{f"{e}_{d}": f"DIR, {e} + {d} blocks" for e, d in ((4, 1), (4, 2), (6, 1), (6, 2), (8, 2), (12, 4))},
}


def label(name: object) -> object:
    """How a reader meets the attack, defense, data set … `name` of the ledger or of a profile.

    `pgd_targeted` is PGD-T (towards a given class), `pgd_big` PGD ε′ (the raised budget), `ddn@2` what DDN
    breaks by a change no longer than 2, `arn_pp` ARN-PP (trained on the attacks of the set PP),
    `ape_gan_full` APE-GAN full, `add_ap_re` ADD-AP-re (the target is trained again behind it).  What is no
    such name, a title or a number, stays as it is.
    """
    if not isinstance(name, str):
        return name
    known = NAMES | ATTACKS | DEFENSES
    if name in known:
        return known[name]
    start, *limits = re.split(r"-(?=eps|ite|from-)", name)
    if limits and label(start) != start:
        return ", ".join([label(start), *map(_limit, limits)])
    start, at, radius = name.partition("@")
    if at and label(start) != start:
        return f"{label(start)}, ℓ2 ≤ {radius}"
    for ending, shown in ENDINGS.items():
        start = name.removesuffix(ending)
        if start != name and label(start) != start:
            return label(start) + shown
    start, _, seen = name.rpartition("_")
    if (
        start.endswith("_full") and label(start) != start
    ):  # trained through the target, whose attacks are not told
        return label(start)
    if start not in DEFENSES:
        return name
    if seen == "full" or seen.isdecimal():
        return f"{DEFENSES[start]} {seen}"
    return f"{DEFENSES[start]}-{seen.upper()}"


def _limit(part: str) -> str:
    """A part of a name in ARN's Tables 3 and 4: "eps0.3", "ite40", "from-hgd" (made for a substitute)."""
    if part.startswith("from-"):
        return f"made for {label(part.removeprefix('from-'))}"
    return f"ε = {part[3:]}" if part.startswith("eps") else f"{part[3:]} steps"
