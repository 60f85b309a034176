"""Defenses, one paper a file: its networks, its losses equation by equation, its training step.

Denoisers, `base.Denoiser`: images (N,C,S,S) in [0,1] -> the same, restored::

    add.ADD    arn.ARN, arn.ReleasedARN    jatp.JATP    dir.DIR, dir.DIRPretraining
    ape_gan.ApeGan    hgd.HGD    nrp.NRP

Classifiers, `robust_training.Classifier`: images -> logits::

    robust_training.Classifier, .AdversarialTraining, .Trades, .Mart, .Mma
    stochastic.Smoothed, .MeNet

All are trained by `helpers.training.fit`.  Beside what that needs, a method says

* `learns_from`: names of what a batch has to hold, out of natural (B,C,S,S), adversarial (B,K,C,S,S), label
  (B,), and index (B,), each image's place in the training set.  ADD and APE-GAN also take `wanted` (B,C,S,S).
* `defended(target)`: the pipeline that is deployed.
* `revision`: to be raised when its substance changes, so that what the old one made is not taken for its
  work.
"""
