"""Delta_m compares a model of several tasks with models of one task each."""

from __future__ import annotations

from collections.abc import Collection, Mapping


def delta_m(
    scores: Mapping[str, float], baselines: Mapping[str, float], lower_is_better: Collection[str] = ()
) -> float:
    """Computes Delta_m (Maninis et al. 2019, equation 4; Vandenhende et al. 2020): the mean relative gain in per cent.

    It is positive where the model of several tasks is the better one. (ASTMT's own tables print the average *drop*,
    which is ``-delta_m``.)

    Args:
        scores: a score of the model for each task.
        baselines: the scores of models that learned one task each with the same trunk, on the same split.
        lower_is_better: the tasks whose scores are errors, such as depth (RMSE) and normals (mean angle).

    Raises:
        ValueError: the tasks are not the same, there is none, ``lower_is_better`` names another one, or a baseline is
            not positive.
    """
    if not scores or scores.keys() != baselines.keys():
        raise ValueError(f"baselines must be of the tasks {', '.join(scores)}, got {', '.join(baselines)}")
    if unknown := sorted(set(lower_is_better) - scores.keys()):
        raise ValueError(f"lower_is_better must name tasks of scores ({', '.join(scores)}), got {', '.join(unknown)}")
    if bad := [name for name, baseline in baselines.items() if not baseline > 0]:
        raise ValueError(f"baselines must be positive, got {baselines[bad[0]]} of {bad[0]}")
    gains = {name: (score - baselines[name]) / baselines[name] for name, score in scores.items()}
    return 100 / len(gains) * sum(-gain if name in lower_is_better else gain for name, gain in gains.items())
