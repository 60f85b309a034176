"""Make data/zoo/cifar10_resnet18_quarter_adv.safetensors again: 12 to 20 minutes on one CPU thread.

    DATA_DIR=/folder/of/cifar10 PYTHONPATH=. python data/zoo/make.py [--epochs 5] [--out FILE]

A ResNet-18 of a quarter of the published width, adversarially trained on the full CIFAR-10 by
single steps from a random start (FGSM-RS: Wong, Rice & Kolter, "Fast is better than free", ICLR
2020), ε = 8/255, step 10/255, cyclic learning rate, random crops and mirror images, bf16.
The weights are stored in float16, which holds them at half the size, and load into float32.
"""

import argparse
import time

import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from helpers import ROOT, data, networks
from helpers.attacks import attackable
from helpers.attacks.pgd import pgd
from helpers.evaluation import error_rate

EPS, STEP, BATCH, RATE = 8 / 255, 10 / 255, 128, 0.2


def crop_and_flip(x):
    """Each image (C,32,32) of a batch padded by four zeros, cut out at random, mirrored half the time."""
    n, c, h, w = x.shape
    padded = F.pad(x, (4, 4, 4, 4))
    rows = torch.randint(9, (n, 1)) + torch.arange(h)
    columns = torch.randint(9, (n, 1)) + torch.arange(w)
    columns = torch.where(torch.rand(n, 1) < 0.5, columns, columns.flip(1))
    return padded[torch.arange(n)[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--out", default=ROOT / "data" / "zoo" / "cifar10_resnet18_quarter_adv.safetensors")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x, y = data.load("cifar10", "train", source="full")
    net = networks.build("resnet18", width=0.25)
    optimizer = torch.optim.SGD(net.parameters(), RATE, momentum=0.9, weight_decay=5e-4, nesterov=True)
    steps = args.epochs * (len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, steps, pct_start=0.4, anneal_strategy="linear")
    for epoch in range(args.epochs):
        started, losses = time.time(), []
        net.train()
        for chosen in torch.randperm(len(x))[: len(x) // BATCH * BATCH].split(BATCH):
            images, labels = crop_and_flip(x[chosen]), y[chosen]
            with torch.autocast("cpu", torch.bfloat16):
                with attackable(net):  # in eval mode: one step of an FGSM with a random start
                    seed = int(torch.randint(2**31, ()))
                    images = pgd(net, images, labels, targeted=False, eps=EPS, steps=1, step_size=STEP, seed=seed)
                loss = F.cross_entropy(net(images.detach()), labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.detach())
        print(f"epoch {epoch}: loss {torch.stack(losses).mean():.3f}, {time.time() - started:.0f} s", flush=True)
        save_file({k: v.half().contiguous() if v.is_floating_point() else v for k, v in net.state_dict().items()}, args.out)
    net.eval()
    print("error on the sample's 1000 test images:", error_rate(net, *data.load("cifar10", "test")))


if __name__ == "__main__":
    main()
