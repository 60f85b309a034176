"""The graph behind `make reproduce`: targets → adversarial sets → defenses → notebooks → report.

Every adversarial set and every defense is an artifact whose file name holds a hash of all its
settings: one that exists is right, so its date is never looked at (`ancient`), and a step that
is run again finds it in its place (`update`).  Targets are ready-made, or made on the way.  A notebook
makes whatever else it needs.  Every step renames its finished file into place, so there are no
incomplete ones, whatever Snakemake fears after a kill.  With its own command, on a cluster say:

    snakemake --ignore-incomplete --rerun-triggers input mtime --config profile=paper seeds=[0,1,2] ...
"""

import logging
import os
import shlex
import sys
from pathlib import Path

if config.get("friendly"):  # `make reproduce`: a display for people, and Snakemake's log in .snakemake/log
    from helpers.reproduce import Progress

    logger.handlers[:] = [h for h in logger.handlers if isinstance(h, logging.FileHandler)] + [Progress()]

from helpers import stickers
from helpers.pipeline import Experiment

PROFILE = config.get("profile", "quick")
SEEDS = [int(seed) for seed in config.get("seeds", [0])]  # --config hands over strings

# The graph -----------------------------------------------------------------------------------

TABLE_1 = ["pgd_n", "pgd_t", "cw_n", "ddn_n", "aa_n", "jsma_t", "pgd_n_big", "aa_n_big"]
FIGURE_1 = ["pgd_n", "pgd_t", "aa_n", "ddn_n", "cw_n", "sta_n"]
TABLE_2, PATCHES = ["sta_n", "sta_t", "fwa_n", "fwa_n_big"], ["ap1", "ap2", "ap3", "ap4"]
TABLE_5 = ["pgd_n", "pgd_t", "cw_n", "ddn_n", "aa_n", "sta_n", "sta_t", "fwa_n"]
FIGURE_4 = ["pgd_n", "pgd_t", "aa_n", "pgd_n_big", "sta_n"]
DENOISERS = ["ape_gan_pp", "ape_gan_dp", "hgd_pp", "hgd_dp", "arn_pp", "arn_dp"]
AGAINST_PATCHES, COUNTS = ["ape_gan_ap", "doa_9x5", "arn_ap"], ["arn_p", "arn_pp", "arn_dp", "arn_ps", "arn_dps"]

ADD_SUITE = ["pgd_u", "pgd_t", "cw_u", "cw_t", "ddn_u", "ddn_t", "ba_u", "ls_u"]
AGAINST_STICKERS = ["rs_1", "rs_2", "rs_3", "doa_1", "doa_2", "doa_3", "doa_4"]
ADD_TOLD = ["add_to_cw_cc", "ape_gan_to_cw_cc", "add_to_ddn_dd", "ape_gan_to_ddn_dd"]

# JATP's baselines are DIR's, too
JATP_OBLIVIOUS, JATP_FULL = ["ape_gan_p", "hgd_p", "nrp"], ["ape_gan_full", "hgd_full", "nrp_full"]

# notebook, or notebook.dataset where it is run with that parameter, too:
# what is made before it, as {(paper, data set): (defenses, adversarial test sets)}
ARN, ADD, JATP = ("arn", "mnist"), ("add", "mnist"), ("jatp", "cifar10")
ARN_CIFAR, DIR = ("arn", "cifar10"), ("dir", "cifar10")
FASHION, CIFAR = ("add", "fashion_mnist"), ("add", "cifar10")
NOTEBOOKS = {
    "00_start_here": {ARN: (["arn_pp"], ["pgd_n"])},
    "01_attacks": {},
    "02_evaluating_a_defense": {ARN: (["ape_gan_pp", "hgd_pp"], [])},
    "11_add_motivation": {ADD: (["at_fgsm", "add_f"], ["fgsm_u", *ADD_SUITE, "st_u", "st_t", "sfw_u"])},
    "12_add_training": {ADD: (["add_pp", "ape_gan_pp", "ape_gan_d_pp"], [*ADD_SUITE, "st_u", "st_t", "sfw_u"])},
    "13_add_pixel_attacks": {
        ADD: (["add_pp", "ape_gan_pp", "ape_gan_d_pp", "add_dd", "ape_gan_dd", "ape_gan_d_dd"], ADD_SUITE),
        FASHION: (["add_pp", "ape_gan_pp"], ADD_SUITE),
        CIFAR: (["add_pp", "ape_gan_pp"], ADD_SUITE),
    },
    "14_add_spatial_attacks": {ADD: (
        ["add_pp", "ape_gan_pp", "add_sp", "ape_gan_ap", "add_ap", "add_ap_re", *AGAINST_STICKERS],
        ["pgd_u", "pgd_t", "st_u", "st_t", "sfw_u", *stickers.NAMES],
    )},
    "15_add_bpda_autoattack": {
        ADD: (["add_pp", "ape_gan_pp", "add_pp3"], ["aa_u", "aa_u_03"]), CIFAR: (["add_pp"], ["aa_u"]),
    },
    "16_add_extensibility": {
        ADD: (["add_pp", "add_dd", "add_cc", *ADD_TOLD], [*ADD_SUITE, "st_u", "st_t"]),
        CIFAR: (["add_pp", "add_cc"], ["cw_u"]),
    },
    "17_add_ablation": {ADD: (["add_pp"], ADD_SUITE)},
    "21_arn_motivation": {ARN: ([], FIGURE_1)},
    "21_arn_motivation.cifar10": {ARN_CIFAR: ([], FIGURE_1)},
    "22_arn_training": {ARN: (["arn_pp", "arn_released_pp"], [])},
    "23_arn_pixel_attacks": {ARN: (["doa_7x7", *DENOISERS], TABLE_1)},
    "23_arn_pixel_attacks.cifar10": {ARN_CIFAR: (["doa_7x7", *DENOISERS], TABLE_1)},
    "24_arn_leaked_defense": {ARN: (["ape_gan_pp", "hgd_pp", "arn_pp"], ["aa_n"])},
    "24_arn_leaked_defense.cifar10": {ARN_CIFAR: (["ape_gan_pp", "hgd_pp", "arn_pp"], ["aa_n"])},
    "25_arn_spatial_attacks": {ARN: (["doa_7x7", *DENOISERS, "arn_ps", *AGAINST_PATCHES], [*TABLE_2, *PATCHES])},
    "25_arn_spatial_attacks.cifar10": {
        ARN_CIFAR: (["doa_7x7", *DENOISERS, "arn_ps"], TABLE_2), ARN: (["doa_7x7", *AGAINST_PATCHES], PATCHES),
    },
    "26_arn_cross_model": {ARN: (["arn_pp"], ["pgd_n", "ddn_n", "aa_n", "sta_n"]), ARN_CIFAR: (["arn_pp", "hgd_pp"], TABLE_5)},
    "27_arn_ablation_detection_embedding": {
        ARN: ([*COUNTS, "hgd_pp"], [*FIGURE_4, "cw_n", "ddn_n", "jsma_t", "sta_t", "fwa_n"]), ARN_CIFAR: (["arn_pp"], ["pgd_n"]),
    },
    "27_arn_ablation_detection_embedding.cifar10": {ARN_CIFAR: (COUNTS, [*FIGURE_4, "cw_n", "ddn_n", "sta_t", "fwa_n"])},
    "31_jatp_motivation": {JATP: ([*JATP_OBLIVIOUS, *JATP_FULL], ["pgd", "aa"])},
    "32_jatp_training": {JATP: ([*JATP_OBLIVIOUS, "jatp", "jatp_prime"], ["pgd", "aa"])},
    "33_jatp_white_box": {JATP: ([*JATP_OBLIVIOUS, "jatp", "jatp_prime"], [])},
    "34_jatp_bpda_ablation_embedding": {JATP: ([*JATP_OBLIVIOUS, "jatp"], ["pgd"])},
    "41_dir_motivation": {DIR: ([], ["pgd", "mi"])},
    "42_dir_training": {DIR: (["dir_pretraining_p", "dir", "hgd_p", "hgd_full"], [])},
    "43_dir_white_box": {DIR: ([*JATP_OBLIVIOUS, "jatp", "dir", "dir_natural", "hgd_natural_p", "jatp_natural"], [])},
    "44_dir_adaptive": {DIR: (["dir", "jatp", "me_net", "me_net_a"], [])},
    "45_dir_ablation_embedding": {DIR: ([*JATP_OBLIVIOUS, *JATP_FULL, "jatp", "dir", "dir_alone", "dir_joint", "dir_released"], [])},
    "53_speed": {},
}

# The rules -----------------------------------------------------------------------------------

PYTHON = shlex.quote(sys.executable)
REPORTS = Path("reports", PROFILE)

# Snakemake gives each step one thread.  That is right for several steps at once; a step that
# runs alone may use all cores, or as many as the user's OMP_NUM_THREADS says.
if workflow.cores == 1:
    wanted = os.environ.get("OMP_NUM_THREADS")
    shell.prefix(f"export OMP_NUM_THREADS={wanted}; " if wanted else "unset OMP_NUM_THREADS MKL_NUM_THREADS; ")

# Notebooks are run again when the code they use changes; these two only run and show them.
SOURCES = [f for f in Path("helpers").rglob("*") if f.suffix in (".py", ".csv")]
SOURCES = sorted(f for f in SOURCES if f.name not in ("reproduce.py", "run.py", "report.py"))
SOURCES.append(Path("helpers", "profiles", f"{PROFILE}.yaml"))


def name_with(seed, name):
    return f"{name}.seed{seed}" if seed else name


STEMS = [name_with(seed, name) for seed in SEEDS for name in NOTEBOOKS]


rule all:
    input:
        # all by name: Snakemake makes a missing file again only if somebody asks for it
        [REPORTS / f"{stem}{kind}" for stem in STEMS for kind in (".ipynb", ".html")],
        REPORTS / "index.html",


rule report:
    input:
        [REPORTS / f"{stem}.ipynb" for stem in STEMS],
        "helpers/report.py",
        "helpers/report.html.j2",
    output:
        REPORTS / "index.html",
        [REPORTS / f"{stem}.html" for stem in STEMS],
    message:
        "report"
    shell:
        f"{PYTHON} -m helpers.report {REPORTS}"


def needed(place):
    """What the notebooks together need of (paper, data set): names of defenses, and of adversarial test sets."""
    both = [needs[place] for needs in NOTEBOOKS.values() if place in needs]
    return sorted({d for defenses, _ in both for d in defenses}), sorted({a for _, attacks in both for a in attacks})


PLACES = sorted({place for needs in NOTEBOOKS.values() for place in needs})
LABS = {(seed, place): Experiment(PROFILE, place[1], seed, paper=place[0]) for seed in SEEDS for place in PLACES}

for (seed, place), lab in LABS.items():
    paper, dataset = place
    options = f"--profile {PROFILE} --paper {paper} --dataset {dataset} --seed {seed}"
    defenses, attacks = needed(place)
    sets = {(attack, "test") for attack in attacks}
    sets |= {(attack, "train") for defense in defenses for attack in lab.seen(defense)}

    for attack, split in sorted(sets):

        rule:
            name:
                name_with(seed, f"adversarial_{paper}_{dataset}_{attack}_{split}")
            output:
                update(lab.adversarial_path(attack, split)),
            params:
                f"adversarial {attack} --split {split} {options}",
            message:
                f"{paper.upper()}, {dataset}: adversarial set {attack}, {split} images, seed {seed}"
            shell:
                f"{PYTHON} -m helpers.pipeline {{params}}"

    for defense in defenses:

        rule:
            name:
                name_with(seed, f"defense_{paper}_{dataset}_{defense}")
            input:
                [ancient(lab.adversarial_path(attack, "train")) for attack in lab.seen(defense)],
            output:
                update(lab.defense_path(defense)),
            params:
                f"defense {defense} {options}",
            message:
                f"{paper.upper()}, {dataset}: defense {defense}, seed {seed}"
            shell:
                f"{PYTHON} -m helpers.pipeline {{params}}"

for seed in SEEDS:
    for name, needs in NOTEBOOKS.items():
        notebook, _, dataset = name.partition(".")
        stem = name_with(seed, name)
        made = []
        for place, (defenses, attacks) in needs.items():
            made += [LABS[seed, place].defense_path(defense) for defense in defenses]
            made += [LABS[seed, place].adversarial_path(attack) for attack in attacks]

        rule:
            name:
                f"notebook_{stem}"
            input:
                f"notebooks/{notebook}.ipynb",
                SOURCES,
                [ancient(file) for file in made],
            output:
                REPORTS / f"{stem}.ipynb",
            log:  # unlike an output, a log survives a failure, and with it the traceback
                REPORTS / "logs" / f"{stem}.ipynb",
            params:
                f"-p profile {PROFILE} -p seed {seed}" + (f" -p dataset {dataset}" if dataset else ""),
            message:
                f"notebook {name}, seed {seed}"
            shell:
                f"{PYTHON} -m helpers.run {{input[0]}} {{log}} {{params}}"
                " && cp {log} {output}.part && mv {output}.part {output}"
