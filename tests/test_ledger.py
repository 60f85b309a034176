"""The ledger holds the papers' numbers unchanged and refuses a row it cannot vouch for."""

import csv

import pytest

from helpers import ledger

GOOD = {
    "id": "toy/t1/lenet/arn_pp/pgd",
    "paper": "toy",
    "place": "table 1",
    "dataset": "mnist",
    "target": "lenet5",
    "defense": "arn",
    "seen": "pp",
    "attack": "pgd",
    "threat": "oblivious",
    "eps": "8/255",
    "metric": "error_rate",
    "value": "1.85",
    "pm": "",
    "note": "one, two",
}


def write(folder, *rows, columns=ledger.COLUMNS):
    path = folder / "toy.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(row.values() for row in rows)
    return path


@pytest.fixture(scope="module")
def arn():
    return ledger.load("arn").set_index("id")


@pytest.fixture(scope="module")
def add():
    return ledger.load("add").set_index("id")


@pytest.fixture(scope="module")
def jatp():
    return ledger.load("jatp").set_index("id")


@pytest.fixture(scope="module")
def dir_():
    return ledger.load("dir").set_index("id")


def column(rows, place, target, attack):
    """One column of a printed table: value by 'defense_seen'."""
    chosen = rows[(rows.place == place) & (rows.target == target) & (rows.attack == attack)]
    return chosen.set_index(chosen.defense + "_" + chosen.seen).value


# --- a CSV file is refused when it breaks a rule ---


def test_a_good_row_is_read_with_its_numbers_as_floats(tmp_path):
    (row,) = ledger.read(write(tmp_path, GOOD | {"pm": "0.2"}))
    assert row == GOOD | {"value": 1.85, "pm": 0.2}


@pytest.mark.parametrize(
    "name, bad",
    [
        ("id", "arn/t1/lenet/arn_pp/pgd"),
        ("paper", "arn"),
        ("dataset", "minst"),
        ("target", "lenet"),
        ("defense", "ARN"),
        ("seen", "pd"),
        ("attack", "pdg"),
        ("threat", "black_box"),
        ("metric", "error"),
        ("eps", "0.3x"),
        ("eps", "1/0"),
        ("eps", "0"),
        ("pm", "-1"),
        ("pm", "?"),
        ("value", ""),
        ("value", "nan"),
        ("value", "1,85"),
        ("value", "-0.1"),
        ("value", "100.1"),
    ],
)
def test_a_bad_cell_is_named_with_file_row_column_and_value(tmp_path, name, bad):
    row = GOOD | {name: bad}
    path = write(tmp_path, row)
    with pytest.raises(ValueError) as error:
        ledger.read(path)
    for part in (str(path), repr(row["id"]), f"column {name}", repr(bad)):
        assert part in str(error.value)


def test_a_name_outside_the_vocabulary_is_answered_with_the_choices(tmp_path):
    with pytest.raises(
        ValueError, match="'bpda', 'bpda_eot', 'gray_box'.*add it to helpers/ledger/vocabulary.yaml"
    ):
        ledger.read(write(tmp_path, GOOD | {"threat": "graybox"}))


def test_a_papers_own_defense_may_bear_its_name(tmp_path):
    (row,) = ledger.read(write(tmp_path, GOOD | {"defense": "toy"}))
    assert row["defense"] == "toy"


def test_a_reduction_may_leave_the_range_of_a_rate(tmp_path):
    (row,) = ledger.read(write(tmp_path, GOOD | {"metric": "reduction", "value": "-3"}))
    assert row["value"] == -3


def test_a_reduction_must_be_a_number(tmp_path):
    with pytest.raises(ValueError, match="column value: 'half' is not valid"):
        ledger.read(write(tmp_path, GOOD | {"metric": "reduction", "value": "half"}))


def test_an_id_may_occur_only_once(tmp_path):
    with pytest.raises(ValueError, match="column id.*an earlier row has it"):
        ledger.read(write(tmp_path, GOOD, GOOD))


@pytest.mark.parametrize("metric", ["l1_distance", "epoch_seconds", "time_ratio"])
def test_a_distance_and_a_time_have_their_own_unit(tmp_path, metric):
    (row,) = ledger.read(write(tmp_path, GOOD | {"metric": metric, "value": "3072"}))
    assert row["value"] == 3072


@pytest.mark.parametrize("metric", ["accuracy", "targeted_accuracy", "roc_auc", "precision"])
def test_accuracies_and_a_detectors_numbers_are_percentages(tmp_path, metric):
    with pytest.raises(ValueError, match="column value: '100.1' is not valid"):
        ledger.read(write(tmp_path, GOOD | {"metric": metric, "value": "100.1"}))


@pytest.mark.parametrize("columns", [ledger.COLUMNS[:-1], ledger.COLUMNS[::-1], [*ledger.COLUMNS, "page"]])
def test_the_columns_must_be_exactly_those_of_the_ledger(tmp_path, columns):
    with pytest.raises(ValueError, match="toy.csv: the first line is"):
        ledger.read(write(tmp_path, columns=columns))


def test_an_empty_file_is_refused(tmp_path):
    path = tmp_path / "toy.csv"
    path.touch()
    with pytest.raises(ValueError, match="toy.csv: the first line is"):
        ledger.read(path)


def test_an_unquoted_comma_is_refused(tmp_path):
    path = write(tmp_path, GOOD)
    path.write_text(path.read_text().replace('"', ""))
    with pytest.raises(ValueError, match="15 cells, not 14; quote"):
        ledger.read(path)


# --- finding numbers ---


def test_load_joins_all_papers_in_the_folder(tmp_path, monkeypatch):
    write(tmp_path, GOOD | {"id": "zoo/t1", "paper": "zoo"}).rename(tmp_path / "zoo.csv")
    write(tmp_path, GOOD)
    monkeypatch.setattr(ledger, "FOLDER", tmp_path)
    assert list(ledger.load().paper) == ["toy", "zoo"]
    assert list(ledger.load("zoo").paper) == ["zoo"]
    assert list(ledger.load().columns) == ledger.COLUMNS


def test_load_names_the_papers_it_has():
    with pytest.raises(ValueError, match="no ledger for paper 'anr': choose from .*arn"):
        ledger.load("anr")


def test_published_gives_the_printed_number():
    assert ledger.published("arn/t1/lenet/arn_pp/jsma_targeted") == 16.75


def test_published_offers_the_three_closest_ids():
    with pytest.raises(LookupError) as error:
        ledger.published("arn/t1/lenet/arn_pp/jsma_target")
    closest = str(error.value).split("closest: ")[1].split(", ")
    assert closest[0] == "arn/t1/lenet/arn_pp/jsma_targeted" and len(closest) == 3


def test_a_table_is_read_by_what_its_ids_begin_with(arn):
    table = ledger.table("arn/t1/lenet")
    assert table.shape == (9, 9) and table.loc["arn_pp", "jsma_targeted"] == 16.75
    assert list(table.index[:2]) == ["none", "at_pgd"] and list(table.columns[:2]) == ["natural", "pgd"]


def test_a_table_of_several_targets_has_a_level_for_them():
    table = ledger.table("jatp/t2")
    assert table["standard"].shape == (6, 4) and set(table.columns.levels[0]) == {"standard", "mma", "mart"}
    assert table.loc["jatp", ("mma", "pgd")] == ledger.published("jatp/t2/mma/jatp/pgd")


def test_a_table_that_is_not_there_is_an_error():
    with pytest.raises(LookupError, match="begins with arn/t9/"):
        ledger.table("arn/t9")


# --- ARN: the tables are complete ---


def test_arn_has_every_number_of_every_table(arn):
    assert arn.place.value_counts().to_dict() == {
        "table 1": 2 * 9 * 9,  # targets x defenses x columns
        "table 2": 2 * 9 * 5 + 6 * 5,  # MNIST and CIFAR-10, then LISA
        "table 3": 5 * 2 + 4 * 2,  # PGD_T, then CW and DDN
        "table 4": 4 * 2,
        "table 5": 8 * 5,
        "section 4.2": 14,
        "section 4.3": 2,
    }


@pytest.mark.parametrize("place", ["table 1", "table 2"])
def test_arn_tables_1_and_2_have_no_gap(arn, place):
    rows = arn[(arn.place == place) & (arn.dataset != "lisa")]
    assert (rows.groupby(["target", "attack"]).size() == 9).all()


# --- ARN: the copy agrees with itself, which a misread digit or a shifted row would break ---


def test_arn_table_2_repeats_the_natural_errors_of_table_1(arn):
    for target in ("lenet5", "resnet110"):
        first, second = (column(arn, place, target, "natural") for place in ("table 1", "table 2"))
        assert first.to_dict() == second.to_dict()


def test_arn_table_5_repeats_tables_1_and_2_for_resnet(arn):
    repeated = arn[(arn.place == "table 5") & (arn.target == "resnet110")]
    for _, row in repeated.iterrows():
        place = "table 2" if row.attack.startswith(("sta", "fwa")) else "table 1"
        assert row.value == column(arn, place, "resnet110", row.attack)["arn_pp"]


def test_arn_section_4_2_repeats_the_tables(arn):
    told = arn[(arn.place == "section 4.2") & (arn.seen == "pp")]
    for _, row in told.iterrows():
        place = "table 1" if row.attack == "jsma_targeted" else "table 2"
        assert row.value == column(arn, place, "lenet5", row.attack)[f"{row.defense}_pp"]
    assert len(told) == 7


def test_arn_every_defense_errs_more_under_the_raised_budget(arn):
    for place, target, attack in [
        ("table 1", "lenet5", "pgd"),
        ("table 1", "lenet5", "aa"),
        ("table 1", "resnet110", "pgd"),
        ("table 1", "resnet110", "aa"),
        ("table 2", "lenet5", "fwa"),
        ("table 2", "resnet110", "fwa"),
    ]:
        default, raised = (column(arn, place, target, name) for name in (attack, attack + "_big"))
        assert (raised >= default).all() and raised["arn_pp"] > default["arn_pp"]


# --- ARN: what the paper claims in words, and where its tables say otherwise ---


@pytest.mark.parametrize("attack", ["pgd", "pgd_targeted", "cw", "aa", "jsma_targeted", "pgd_big", "aa_big"])
def test_arn_pp_is_best_on_lenet_against_most_pixel_attacks(arn, attack):
    assert column(arn, "table 1", "lenet5", attack).idxmin() == "arn_pp"


def test_arn_is_not_best_everywhere(arn):
    assert column(arn, "table 1", "resnet110", "jsma_targeted").idxmin() == "doa_7x7_"
    assert column(arn, "table 1", "resnet110", "ddn").idxmin() == "hgd_dp"
    assert column(arn, "table 2", "lenet5", "fwa").idxmin() == "doa_7x7_"


def test_arn_is_best_against_every_lisa_patch(arn):
    for patch in ("ap1", "ap2", "ap3", "ap4"):
        assert column(arn, "table 2", "lisa_cnn", patch).idxmin() == "arn_ap"


def test_arn_reduction_of_66_percent_under_bpda_is_mnist_alone(arn):
    def reduction(target):
        ape_gan, ours = (
            arn.loc[[f"arn/t4/{target}/{defense}/pgd-ite{n}" for n in (40, 100)]].value.to_numpy()
            for defense in ("ape_gan", "arn")
        )
        return 100 * (1 - ours / ape_gan).mean()

    claimed = arn.loc["arn/s4.2/lenet/arn/pgd-bpda-reduction"].value
    assert round(reduction("lenet")) == claimed
    assert round((reduction("lenet") + reduction("resnet")) / 2) == 49 != claimed


def test_arn_reduction_of_24_percent_in_the_white_box_is_at_the_default_budget_alone(arn):
    def reduction(eps):
        others = arn.loc[
            [f"arn/t3/lenet/{defense}/pgd_targeted-eps{eps}-ite40" for defense in ("ape_gan", "hgd")]
        ].value
        return 100 * (1 - arn.loc[f"arn/t3/lenet/arn/pgd_targeted-eps{eps}-ite40"].value / others).mean()

    assert round(reduction("0.3")) == arn.loc["arn/s4.2/lenet/arn/pgd_targeted-white_box-reduction"].value
    assert reduction("0.5") < 0.1


# --- ADD: the tables are complete ---


def test_add_has_every_number_of_tables_1_2_5_6_7(add):
    assert add.place.value_counts().to_dict() == {
        "table 1": 3 * 3 * (8 + 1),  # data sets x defenses x (attacks and the line below the block)
        "table 2": 4 * 4,
        "table 5": 5 + 3,  # MNIST, CIFAR-10
        "table 6": 2 * 2 * 3,  # data sets x (adv, def) x measures
        "table 7": 2 * 4,
        "section 4.2": 2,
    }


def test_add_tables_1_and_2_have_no_gap(add):
    sizes = add[add.place.isin(["table 1", "table 2"])].groupby(["place", "dataset", "attack"]).size()
    assert (sizes["table 1"] == 3).all() and len(sizes["table 1"]) == 3 * 9
    assert (sizes["table 2"] == 4).all() and len(sizes["table 2"]) == 4


def test_add_targeted_attacks_alone_have_targeted_accuracy(add):
    targeted = add.attack.str.endswith("_targeted")
    assert set(add.metric[targeted]) == {"targeted_accuracy"}
    assert set(add.metric[~targeted]) == {"accuracy", "roc_auc", "precision", "recall"}


def test_add_other_papers_networks_are_all_in_table_5_with_a_target_the_paper_does_not_state(add):
    foreign = add[add.defense.isin(["crown", "ibp", "fast", "unlabeled", "hydra"])]
    assert set(foreign.place) == {"table 5"} and set(foreign.target) == {"unstated"} and len(foreign) == 5


# --- ADD: the copy agrees with itself and with ARN's ---


def test_add_table_6_has_the_recall_that_arn_reports_for_its_own_defense(add, arn):
    assert add.value["add/t6/mnist/def/recall"] == arn.value["arn/s4.3/lenet/arn/lid"]
    assert add.value["add/t6/cifar10/def/recall"] == arn.value["arn/s4.3/cifar10/arn/lid"]


def table_1(rows, defense):
    """One defense's rows of Table 1: data sets x columns."""
    chosen = rows[(rows.place == "table 1") & (rows.defense == defense)]
    return chosen.pivot(index="dataset", columns="attack", values="value")


def test_add_an_attack_only_ever_lowers_the_accuracy_of_its_own_defense(add):
    for defense in ("none", "add"):
        rows = table_1(add, defense)
        assert (rows.drop(columns="natural").lt(rows.natural, axis=0)).all(axis=None)


def test_add_the_target_alone_is_below_every_defense_under_attack(add):
    none = table_1(add, "none").drop(columns="natural")
    assert none.max(axis=None) <= 12 < 45 < table_1(add, "ape_gan").min(axis=None)


# --- ADD: what the paper claims in words, and where its tables say otherwise ---


def test_add_beats_ape_gan_under_every_attack_but_not_on_natural_cifar(add):
    gain = table_1(add, "add") - table_1(add, "ape_gan")
    assert (gain.drop(columns="natural") > 0).all(axis=None)
    assert gain.natural["cifar10"] < 0 < gain.natural[["fashion_mnist", "svhn"]].min()


def test_add_s_gains_under_every_spatial_attack_and_loses_on_natural_images(add):
    rows = add[add.place == "table 2"].pivot(index="attack", columns="defense", values="value")
    attacked = rows.drop(index="natural")
    assert (attacked.add_s > attacked["add"]).all() and (attacked["add"] > attacked.ape_gan).all()
    assert rows.idxmin(axis=1)["natural"] == "add_s"


def test_add_targeted_attacks_are_not_always_the_weaker_ones(add):
    rows = table_1(add, "add")
    harder = {kind: set(rows.index[rows[f"{kind}_targeted"] < rows[kind]]) for kind in ("pgd", "cw", "ddn")}
    assert harder == {"pgd": set(), "cw": {"cifar10", "svhn"}, "ddn": {"cifar10", "svhn"}}


def test_add_in_table_5_the_mnist_defense_of_the_smaller_training_budget_is_not_ahead(add):
    mnist = add[(add.place == "table 5") & (add.dataset == "mnist")].value
    assert list(mnist.sort_values(ascending=False).index.str.split("/").str[3]) == [
        "ours_eps0.3",
        "crown",
        "ibp",
        "ours_eps0.1",
        "fast",
    ]


def test_add_restores_better_than_ape_gan_although_the_wanted_image_is_adversarial(add):
    for seen in ("cw", "ddn"):
        for kind in ("reconstructed", "restored"):
            assert add.value[f"add/t7/{seen}/add/{kind}"] > add.value[f"add/t7/{seen}/ape_gan/{kind}"]


# --- JATP: the tables are complete ---


def test_jatp_has_every_number_of_tables_1_and_2_and_the_two_distances(jatp):
    assert jatp.place.value_counts().to_dict() == {
        "table 1": 5 * 6,  # defenses x columns
        "table 2": 3 * 6 * 4,  # targets x defenses x columns
        "section 2.3": 2,
    }


def test_jatp_an_id_of_a_table_says_target_defense_and_attack(jatp):
    rows = jatp[jatp.place.str.startswith("table")]
    tail = rows.target + "/" + rows.defense + "/" + rows.attack
    assert list(rows.index) == list("jatp/t" + rows.place.str[-1] + "/" + tail)


def test_jatp_table_1_alone_prints_deviations(jatp):
    assert (jatp.pm.notna() == (jatp.place == "table 1")).all()


def test_jatp_every_attack_is_white_box_and_fwa_alone_has_no_eps(jatp):
    attacked = jatp[jatp.place.str.startswith("table") & (jatp.attack != "natural")]
    assert set(attacked.threat) == {"white_box"}
    assert set(attacked[attacked.attack == "fwa"].eps) == {""}
    assert set(attacked[attacked.attack != "fwa"].eps) == {"8/255"}


# --- JATP: what the paper claims in words, and where its tables say otherwise ---

JATP_TARGETS = ["trades", "standard", "mma", "mart"]


def accuracies(rows, target):
    """What JATP prints for one target: defenses x columns."""
    return rows[rows.target == target].pivot(index="defense", columns="attack", values="value")


@pytest.mark.parametrize("target", JATP_TARGETS)
def test_jatp_is_the_best_denoiser_that_leaves_its_target_alone(jatp, target):
    denoisers = accuracies(jatp, target).drop(index=["none", "jatp_prime"], errors="ignore")
    assert (denoisers.idxmax() == "jatp").all()


@pytest.mark.parametrize("target", JATP_TARGETS)
def test_jatp_is_below_the_bare_target_under_every_attack_but_ti_bim(jatp, target):
    rows = accuracies(jatp, target)
    gain = rows.loc["jatp"] - rows.loc["none"]
    assert set(gain.index[gain > 0]) == set(rows.columns) & {"natural", "ti_bim"}


@pytest.mark.parametrize(
    "target, above",
    [
        ("standard", {"natural", "pgd", "fwa"}),
        ("mma", set()),
        ("mart", {"dlr", "fwa"}),
    ],
)
def test_jatp_prime_is_above_the_bare_target_in_five_cells_of_twelve(jatp, target, above):
    rows = accuracies(jatp, target)
    gain = rows.loc["jatp_prime"] - rows.loc["none"]
    assert set(gain.index[gain > 0]) == above


@pytest.mark.parametrize("target", ["standard", "mma", "mart"])
def test_jatp_prime_improves_on_jatp_under_every_attack_and_loses_on_natural_images(jatp, target):
    rows = accuracies(jatp, target)
    gain = rows.loc["jatp_prime"] - rows.loc["jatp"]
    assert gain.natural < 0 < gain.drop("natural").min()


def test_jatp_autoattack_is_the_weaker_attack_for_hgd_alone(jatp):
    rows = accuracies(jatp, "trades")
    assert list(rows.index[rows.aa > rows[["pgd", "dlr"]].min(axis=1)]) == ["hgd"]


def test_jatp_restored_examples_are_farther_away_than_adversarial_ones(jatp):
    assert jatp.value["jatp/s2.3/restored/l1_distance"] > jatp.value["jatp/s2.3/adversarial/l1_distance"]


# --- DIR: the tables are complete ---


def test_dir_has_every_number_of_the_tables_and_of_the_text(dir_):
    assert dir_.place.value_counts().to_dict() == {
        "table 1": 2 * 6 * 5,  # data sets x defenses x columns
        "table 2": 2 * 6 * 3,  # targets x defenses x columns
        "table 3": 4,
        "table 4": 3 * 2,  # methods x (accuracy, time)
        "table 5": 6 * 2,  # depths x (natural, PGD)
        "section 4.2": 3,
        "section 4.3": 3 * 2 + 3,  # mask ratios x (natural, PGD), then pre-training
    }


def test_dir_an_id_of_tables_1_and_2_says_block_defense_and_attack(dir_):
    for place, block in (("table 1", "dataset"), ("table 2", "target")):
        rows = dir_[dir_.place == place]
        tail = rows[block] + "/" + rows.defense + "/" + rows.attack
        assert list(rows.index) == list(f"dir/t{place[-1]}/" + tail)


def test_dir_an_id_of_the_ablations_says_what_was_changed_and_the_attack(dir_):
    rows = dir_[dir_.place.isin(["table 5", "section 4.3"]) & (dir_.metric == "accuracy")]
    assert list(rows.index.str.split("/").str[-1]) == list(rows.attack)
    assert set(rows.defense) == {"dir"} and set(rows.target) == {"standard"}


def test_dir_what_has_no_attack_is_a_time(dir_):
    assert set(dir_.metric[dir_.attack == ""]) == {"epoch_seconds", "time_ratio"}
    assert set(dir_.metric[dir_.attack != ""]) == {"accuracy"}


def test_dir_attacks_under_a_stated_threat_are_white_box_or_bpda_with_eot(dir_):
    attacked = dir_[~dir_.attack.isin(["natural", "unstated", ""])]
    assert set(attacked.threat[attacked.place != "table 3"]) == {"white_box"}
    assert set(attacked.threat[attacked.place == "table 3"]) == {"bpda_eot"}


# --- DIR: the copy agrees with itself, and what the paper claims in words ---


def accuracies_of(dir_, place):
    """What DIR's Table 1 or 2 prints: (data set, target, defense) x columns."""
    return dir_[dir_.place == place].pivot(
        index=["dataset", "target", "defense"], columns="attack", values="value"
    )


def test_dir_tables_and_text_repeat_the_default_settings_numbers(dir_):
    for attack in ("natural", "pgd"):
        repeated = [f"dir/t1/cifar10/dir/{attack}", f"dir/t5/8_2/{attack}", f"dir/s4.3/hidden_50/{attack}"]
        assert dir_.value[repeated].nunique() == 1
    assert dir_.value["dir/s4.3/pretraining/pgd"] == dir_.value["dir/t1/cifar10/dir/pgd"]


@pytest.mark.parametrize("place", ["table 1", "table 2"])
def test_dir_alone_is_above_the_bare_target_under_every_attack(dir_, place):
    table = accuracies_of(dir_, place)
    bare = table.xs("none", level="defense")
    for defense in ("ape_gan", "hgd", "nrp", "jatp", "dir"):
        gain = (table.xs(defense, level="defense") - bare).drop(columns="natural")
        assert (gain > 0 if defense == "dir" else gain < 0).all(axis=None)


def test_dir_every_denoiser_costs_natural_accuracy_and_dirs_is_the_best_only_on_cifar_with_its_own_target(
    dir_,
):
    for place, best in (("table 1", ["dir", "jatp"]), ("table 2", ["jatp", "jatp"])):
        natural = accuracies_of(dir_, place).natural.unstack("defense")
        denoised = natural.drop(columns="none")
        assert denoised.lt(natural.none, axis=0).all(axis=None)
        assert list(denoised.idxmax(axis=1)) == best


def test_dir_autoattack_is_the_strongest_attack_and_vni_hardly_differs_from_mi(dir_):
    for place in ("table 1", "table 2"):
        table = accuracies_of(dir_, place)
        assert (table.idxmin(axis=1) == "aa").all()
    table = accuracies_of(dir_, "table 1")
    assert (table.pgd < table.vni).all() and (table.mi - table.vni).between(0, 0.1, inclusive="neither").all()


def test_dir_adaptive_attacks_are_stronger_than_pgd_but_weaker_than_autoattack(dir_):
    white_box = accuracies_of(dir_, "table 1").loc["cifar10", "standard", "dir"]
    for adaptive in ("dir/s4.2/dir/mask_adaptive", "dir/t3/dir/bpda_eot"):
        assert white_box.aa < dir_.value[adaptive] < white_box.pgd


# --- DIR: where its numbers do not fit together ---


def test_dir_table_4_has_hgd_more_robust_before_a_naturally_trained_target_than_under_table_1s_pgd(dir_):
    gain = {
        d: dir_.value[f"dir/t4/{d}/pgd"] - dir_.value[f"dir/t1/cifar10/{d}/pgd"]
        for d in ("hgd", "jatp", "dir")
    }
    assert gain["hgd"] > 0 > max(gain["jatp"], gain["dir"])


@pytest.mark.parametrize("setting", ["s4.3/hidden_30", "t5/12_4"])
def test_dir_two_settings_are_above_the_bare_target_on_natural_images(dir_, setting):
    assert dir_.value[f"dir/{setting}/natural"] > dir_.value["dir/t1/cifar10/none/natural"]
