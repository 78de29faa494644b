"""Numbers and pictures: ROC analysis with intervals, activation rates, DRS deviations, heatmaps and plots."""

from .._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    names={
        "activations": ["activation_layers", "activation_rate", "activation_rate_change"],
        "crops": ["TEN_CROPS", "CroppedImages", "crop_images", "size_before_crop"],
        "heatmaps": ["class_activation_map", "overlay"],
        "demonstration": ["demonstrate"],
        "phantoms": ["draw_phantom"],
        "pictures": ["prediction_figure"],
        "plots": [
            "activation_rate_change_figure",
            "activation_rate_figure",
            "roc_figure",
            "scaling_deviation_figure",
        ],
        "predicting": ["heatmap_overlays", "predict_images", "prepare_image", "write_heatmaps"],
        "roc": [
            "Comparison",
            "Interval",
            "MeanAuc",
            "OperatingPoint",
            "RocCurve",
            "auc",
            "compare_bootstrap_wilcoxon",
            "compare_delong",
            "compare_means",
            "mean_auc",
            "operating_point",
            "roc_curve",
        ],
        "scaling": ["drs_deviations"],
    },
)
