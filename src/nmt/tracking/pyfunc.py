"""The code of the logged model: MLflow runs this file when it logs and when it loads ("models from code", no pickle).

Input: a table with a text column `source`. Output: a row per row, with the columns `translation` and `score`.
"""

from typing import TYPE_CHECKING, Any

import mlflow.models
import pandas as pd
from mlflow.pyfunc.model import PythonModel, PythonModelContext

if TYPE_CHECKING:
    from nmt.translator import Translator


class TranslationModel(PythonModel):
    """The bundle behind MLflow's `predict`."""

    translator: "Translator"

    def load_context(self, context: PythonModelContext) -> None:
        """Load the bundle with the decoding settings that it was scored with (decoding.json beside the weights)."""
        from nmt.translator import Translator

        self.translator = Translator.load(context.artifacts["bundle"])

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Translate the first column, line by line."""
        lines = [str(line) for line in model_input.iloc[:, 0]]
        best = [translation.hypotheses[0] for translation in self.translator.translate(lines, n_best=1)]
        columns = {"translation": [one.text for one in best], "score": [float(one.score) for one in best]}
        return pd.DataFrame(columns)


mlflow.models.set_model(TranslationModel())
