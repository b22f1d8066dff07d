"""The function that builds the network of a checkpoint from its settings, by stage."""

from models.cam_classifier import build_cam_classifier
from models.deeplabv3plus import build_deeplabv3plus
from models.saliency_net import build_saliency_net

BUILDERS = {"saliency": build_saliency_net, "classification": build_cam_classifier, "segmentation": build_deeplabv3plus}
