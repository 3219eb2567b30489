"""What an attack is made relative to: the true class where it is given, else what the model answers."""

import torch

from intriguing import attacks


def test_without_labels_every_image_is_attacked_from_what_the_model_answers():
    net = torch.nn.Linear(4, 3)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[2.0, 0, 0, 0], [0, 2.0, 0, 0], [0, 0, 2.0, 0]]))
        net.bias.zero_()
    images = torch.tensor([[0.7, 0.4, 0.3, 0.5], [0.2, 0.6, 0.5, 0.5], [0.1, 0.2, 0.9, 0.5]])
    answers = net(images).argmax(1)
    alone = attacks.lbfgs(net, images, None, target="nearest")
    assert alone.attacked.all()
    assert torch.equal(alone.labels, answers)
    assert (net(alone.adversarial).argmax(1) != answers).all()
    # With a true class that the model misses, the image is already wrong and is left as it is.
    wrong = (answers + 1) % 3
    assert not attacks.lbfgs(net, images, wrong, target="nearest").attacked.any()
