"""Train a net of data/zoo once more, on one CPU thread in minutes (Fashion-MNIST) to half an hour (CIFAR-10):

    DATA_DIR=/folder/of/the/full/sets PYTHONPATH=. python data/zoo/make.py NET [--out FILE] [--checkpoint F]

natural, adversarial: a ResNet-18 of a quarter of the published width, trained on the full CIFAR-10 with a
    cyclic learning rate, random crops and mirror images, bf16.  The natural one sees natural images for ten
    epochs.  The adversarial one sees for five epochs what a single step from a random start makes of them
    (FGSM-RS: Wong, Rice & Kolter, "Fast is better than free", ICLR 2020), ε = 8/255, step 10/255.
at, trades, mart, mma: a ResNet-18 of an eighth of the published width, trained on the full CIFAR-10 by the
    four methods of JATP's targets, six epochs with a cyclic rate, random crops and mirror images, bf16.
    Where the papers' attacks make ten steps of 0.007, these make two of 5/255 in the same ball of 8/255;
    MMA's has two steps and five halvings.
fashion: ADD's CNN for Fashion-MNIST, eight epochs on the full set.

With --checkpoint a training that was killed goes on after its last whole epoch (not natural and adversarial).
The weights are stored in float16, which holds them at half the size, and load into float32.
"""

import argparse
import time
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from helpers import ROOT, data, networks
from helpers.attacks import attackable
from helpers.attacks.pgd import pgd
from helpers.defenses.robust_training import AdversarialTraining, Classifier, Mart, Mma, Trades
from helpers.measure.rates import error_rate
from helpers.training import crop_and_flip, fit

EPS, STEP, BATCH, RATE = 8 / 255, 10 / 255, 128, 0.2
EPOCHS = {"natural": 10, "adversarial": 5}

INNER = {"attack_settings": {"eps": EPS, "steps": 2, "step_size": 5 / 255}}
ROBUST = {
    "at": (AdversarialTraining, INNER),
    "trades": (Trades, INNER),
    "mart": (Mart, INNER),
    "mma": (Mma, {"steps": 2, "search_steps": 5}),
}


def cifar10(training):
    """ResNet-18 of a quarter of the published width; `training` is "natural" or "adversarial"."""
    x, y = data.load("cifar10", "train", source="full")
    net = networks.build("resnet18", width=0.25)
    optimizer = torch.optim.SGD(net.parameters(), RATE, momentum=0.9, weight_decay=5e-4, nesterov=True)
    steps = EPOCHS[training] * (len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, RATE, steps, pct_start=0.4, anneal_strategy="linear"
    )
    for epoch in range(EPOCHS[training]):
        started, losses = time.time(), []
        net.train()
        for chosen in torch.randperm(len(x))[: len(x) // BATCH * BATCH].split(BATCH):
            images, labels = crop_and_flip(x[chosen]), y[chosen]
            with torch.autocast("cpu", torch.bfloat16):
                if training == "adversarial":
                    with attackable(net):  # in eval mode: one step of an FGSM with a random start
                        seed = int(torch.randint(2**31, ()))
                        images = pgd(
                            net, images, labels, targeted=False, eps=EPS, steps=1, step_size=STEP, seed=seed
                        )
                loss = F.cross_entropy(net(images.detach()), labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.detach())
        seconds = time.time() - started
        print(f"epoch {epoch}: loss {torch.stack(losses).mean():.3f}, {seconds:.0f} s", flush=True)
    return net


def robust(name, checkpoint):
    """ResNet-18 of an eighth of the published width, trained on CIFAR-10 by a method of `ROBUST`."""
    x, y = data.load("cifar10", "train", source="full")
    make, settings = ROBUST[name]
    network = {"network": "resnet18", "width": 0.125, "in_channels": 3, "augment": True}
    sgd = {"optimizer": "sgd", "learning_rate": RATE, "weight_decay": 5e-4, "schedule": "cyclic"}
    method = make(**network, **sgd, **settings)
    images = {"natural": x, "label": y, "index": torch.arange(len(x))}
    history = fit(method, images, epochs=6, batch_size=BATCH, seed=0, precision="bf16", checkpoint=checkpoint)
    print(*history, sep="\n")
    return method.network


def fashion_mnist(checkpoint):
    """The CNN of ADD's Appendix C.2, trained on natural images with Adam."""
    x, y = data.load("fashion_mnist", "train", source="full")
    method = Classifier("fashion_cnn")
    fit(method, {"natural": x, "label": y}, epochs=8, batch_size=100, seed=0, checkpoint=checkpoint)
    return method.network


# what is to be made: its file in data/zoo, its data set, and how, given a checkpoint
NETS = {
    "natural": ("cifar10_resnet18_quarter_nat", "cifar10", lambda _: cifar10("natural")),
    "adversarial": ("cifar10_resnet18_quarter_adv", "cifar10", lambda _: cifar10("adversarial")),
    "fashion": ("fashion_mnist_cnn_nat", "fashion_mnist", fashion_mnist),
}
NETS |= {name: (f"cifar10_resnet18_eighth_{name}", "cifar10", partial(robust, name)) for name in ROBUST}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("net", choices=NETS)
    parser.add_argument("--out", help="default: the zoo's own file")
    parser.add_argument("--checkpoint", type=Path, help="written after each epoch; training goes on from it")
    args = parser.parse_args()
    if args.checkpoint and args.net in EPOCHS:
        parser.error(f"{args.net} is made in one go, without a checkpoint")
    file, dataset, make = NETS[args.net]
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = make(args.checkpoint).eval()
    weights = {k: v.half().contiguous() if v.is_floating_point() else v for k, v in net.state_dict().items()}
    save_file(weights, args.out or ROOT / "data" / "zoo" / f"{file}.safetensors")
    print("error on the sample's 1000 test images:", error_rate(net, *data.load(dataset, "test")))


if __name__ == "__main__":
    main()
