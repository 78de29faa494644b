"""Numbers and pictures: ROC analysis with intervals, activation rates, DRS deviations, heatmaps and plots."""

from .._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    names={
        "activations": ["activation_layers", "activation_rate", "activation_rate_change"],
        "costs": ["multiply_accumulates"],
        "crops": [
            "FOUR_FLIPS",
            "TEN_CROPS",
            "CroppedImages",
            "FlippedImages",
            "crop_images",
            "flip_images",
            "size_before_crop",
        ],
        "heatmaps": ["class_activation_map", "class_overlays", "evidence_map", "occlusion_map", "overlay"],
        "demonstration": ["demonstrate"],
        "movement": ["feature_movement"],
        "phantoms": ["draw_phantom"],
        "pictures": ["patch_figure", "patch_heatmap_figure", "prediction_figure"],
        "plots": [
            "activation_rate_change_figure",
            "activation_rate_figure",
            "growth_figure",
            "history_figure",
            "roc_figure",
            "scaling_deviation_figure",
        ],
        "predicting": ["heatmap_overlays", "predict_images", "prepare_image", "write_heatmaps"],
        "regional": ["regional_features", "two_step_classifier"],
        "roc": [
            "Comparison",
            "Interval",
            "MeanAuc",
            "OperatingPoint",
            "RocCurve",
            "accuracy",
            "auc",
            "compare_bootstrap_wilcoxon",
            "compare_delong",
            "compare_means",
            "mean_auc",
            "mean_label_auc",
            "operating_point",
            "rates_at",
            "roc_curve",
        ],
        "scaling": ["drs_deviations"],
        "shortcuts": ["auc_within", "table_scores"],
    },
)
