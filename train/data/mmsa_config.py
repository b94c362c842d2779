"""Data sets by the names of MMSA's configuration: `config_regression.json#mosi/aligned`.

Such a file (github.com/thuiar/MMSA, `src/MMSA/config`) has, under `datasetCommonParams`, a root
folder and for each data set and layout the path of its feature file below that.
"""

import json
from pathlib import Path

from .corpora import DataError

__all__ = ["feature_file"]

_SEPARATOR = "#"


def feature_file(data: Path) -> Path:
    """The feature file that `data` names: itself, or by FILE.json#DATASET/LAYOUT the one that MMSA
    would read. A root folder that is not absolute counts from the configuration's own folder.
    Raises DataError for a file or a name that there is not."""
    path, separator, name = str(data).partition(f".json{_SEPARATOR}")
    if not separator:
        return data
    where = Path(f"{path}.json")
    try:
        known = json.loads(where.read_text(encoding="utf-8"))["datasetCommonParams"]
        root = where.parent / known["dataset_root_dir"]
        layouts = {
            f"{dataset}/{layout}": root / described["featurePath"]
            for dataset, found in known.items()
            if isinstance(found, dict)
            for layout, described in found.items()
        }
    except OSError as error:
        raise DataError(f"{where}: {error.strerror}; name a configuration of MMSA") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{where}: not a configuration of MMSA ({error!r})") from error
    if name not in layouts:
        raise DataError(f"{where}: no {name}; there are {', '.join(sorted(layouts))}")
    return Path(layouts[name])
