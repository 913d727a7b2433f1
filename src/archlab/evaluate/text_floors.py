"""What a text classifier has to beat: the commonest class, and a linear model of words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def majority(train_labels: Sequence[int], test_labels: Sequence[int]) -> np.ndarray:
    """Whether the commonest class of the training texts is right, for every test text."""
    return np.asarray(test_labels) == np.bincount(train_labels).argmax()


def tfidf(
    train_texts: Sequence[str],
    train_labels: Sequence[int] | Sequence[str],
    test_texts: Sequence[str],
    test_labels: Sequence[int] | Sequence[str],
) -> np.ndarray:
    """Whether logistic regression on TF-IDF of single words and pairs is right, for every test text.

    Raises:
        ValueError: no word occurs in two training texts, or their labels are all the same.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2)
    model = LogisticRegression(C=10.0, max_iter=1000).fit(words.fit_transform(train_texts), train_labels)
    return np.asarray(model.predict(words.transform(test_texts)) == np.asarray(test_labels))
