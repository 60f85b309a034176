"""How every table and figure writes the names of the ledger and of the profiles: one `label` for all."""

# An attack's ending says what is special about it.
ENDINGS = {"_targeted": "-T", "_big": " ε′", "_03": " ε 0.3", "_40": "-40", "_seen": " (seen)"}

# Names as they are, then what may be followed by an ending (attacks) or by a set of seen attacks (defenses).
NAMES = {
    "natural": "natural",
    "none": "none",
    "unstated": "not stated",
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
    "oblivious": "oblivious",
    "gray_box": "gray box",
    "white_box": "white box",
    "bpda": "BPDA",
    "bpda_eot": "BPDA + EOT",
    "fixed_mask": "fixed mask",
    "error_rate": "errors",
    "success_rate": "success",
    "fooling_rate": "fooling rate",
    "targeted_accuracy": "accuracy, targeted",
    "roc_auc": "ROC AUC",
    # defenses whose last letters are no set of seen attacks
    "add_sp": "ADD-S",
    "add_s": "ADD-S",
    "add_pp3": "ADD-PP, ε 0.3",
    "ape_gan_p": "APE-GAN",
    "hgd_p": "HGD",
    "nrp_ssp": "NRP",
}

ATTACKS = {
    "fgsm": "FGSM",
    "pgd": "PGD",
    "pgd_dlr": "PGD on DLR",
    "pgd_eot": "PGD + EOT",
    "cw": "CW",
    "ddn": "DDN",
    "aa": "AA",
    "jsma": "JSMA",
    "sta": "STA",
    "fwa": "FWA",
    "ap1": "AP1",
    "ap2": "AP2",
    "ap3": "AP3",
    "ap4": "AP4",
    "ba": "boundary",
    "lsa": "local search",
    "dlr": "DLR",
    "mi": "MI",
    "mi_fgsm": "MI-FGSM",
    "vni": "VNI",
    "vni_fgsm": "VNI-FGSM",
    "ti_bim": "TI-BIM",
    "apgd_ce": "APGD-CE",
    "apgd_dlr": "APGD-DLR",
    "fab": "FAB",
    "square": "Square",
    "rp2": "RP2",
    "roa": "ROA",
    "feature": "features",
    "feature_pgd": "features",
    "restored": "restored",
    "mask_adaptive": "mask-adaptive",
    "mask1": "mask 1",
    "mask2": "mask 2",
    "mask3": "mask 3",
    "mask4": "mask 4",
    "mask5": "mask 5",
    "adaptive": "adaptive",
    "ensemble": "ensemble",
}

DEFENSES = {
    "at": "AT",
    "at_pgd": "AT",
    "at_fgsm": "Def-adv",
    "trades": "TRADES",
    "mma": "MMA",
    "mart": "MART",
    "doa": "DOA",
    "doa_7x7": "DOA 7×7",
    "doa_9x5": "DOA 9×5",
    "rs": "RS",
    "ape_gan": "APE-GAN",
    "ape_gan_d": "APE-GAN-D",
    "hgd": "HGD",
    "nrp": "NRP",
    "arn": "ARN",
    "arn_released": "ARN as released",
    "add": "ADD",
    "jatp": "JATP",
    "jatp_prime": "JATP′",
    "dir": "DIR",
    "dir_joint": "DIR, joint",
    "dir_pretraining": "DIR's pre-training",
    "me_net": "ME-Net",
    "me_net_a": "ME-Net + AT",
    "ebm": "EBM",
    "crown": "CROWN",
    "ibp": "IBP",
    "fast": "Fast AT",
    "unlabeled": "AT + unlabeled",
    "hydra": "HYDRA",
}


def label(name: object) -> object:
    """How a reader meets the attack, defense, data set … `name` of the ledger or of a profile.

    `pgd_targeted` is PGD-T (towards a given class), `pgd_big` PGD ε′ (the raised budget), `ddn@2` what DDN
    breaks by a change no longer than 2, `arn_pp` ARN-PP
    (trained on the attacks of the set PP), `ape_gan_full` APE-GAN full, `add_ap_re` ADD-AP-re (the target is
    trained again behind it).  What is no such name, a title or a number, stays as it is.
    """
    if not isinstance(name, str):
        return name
    known = NAMES | ATTACKS | DEFENSES
    if name in known:
        return known[name]
    start, at, radius = name.partition("@")
    if at and label(start) != start:
        return f"{label(start)}, ℓ2 ≤ {radius}"
    for ending, shown in ENDINGS.items():
        start = name.removesuffix(ending)
        if start != name and label(start) != start:
            return label(start) + shown
    if name.endswith("_re"):
        return f"{label(name.removesuffix('_re'))}-re"
    if name.endswith("-fooling"):
        return f"{label(name.removesuffix('-fooling'))}, fooling rate"
    start, _, seen = name.rpartition("_")
    if start not in DEFENSES:
        return name
    if seen == "full" or seen.isdecimal():
        return f"{DEFENSES[start]} {seen}"
    return f"{DEFENSES[start]}-{seen.upper()}"
