import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from archlab.evaluate.probes import Labelled, knn_probe, linear_probe, majority_probe

SHAPES = np.array(["ball", "cone", "cube"])


def blobs(items, seed, noise=0.4):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, items)
    scales = np.array([1.0, 1.0, 1000.0, 1.0])  # a loud feature that carries nothing
    features = np.eye(4)[[0, 1, 3]][labels] + noise * rng.normal(size=(items, 4)) * scales + 5
    return Labelled(features, SHAPES[labels], np.arange(items))


def test_linear_probe_reads_off_what_is_linear_whatever_the_scale_of_features():
    right = linear_probe(blobs(400, 0), blobs(200, 1), blobs(300, 2))
    assert right.dtype == bool
    assert right.shape == (300,)
    assert right.mean() > 0.85


@pytest.mark.parametrize("probe", [lambda a, b, c: linear_probe(a, b, c), lambda a, b, c: knn_probe(a, c)])
def test_features_without_information_score_chance(probe):
    splits = [blobs(600, seed) for seed in range(3)]
    noise = [
        Labelled(np.random.default_rng(9 + i).normal(size=(600, 4)), s.labels, s.images) for i, s in enumerate(splits)
    ]
    assert probe(*noise).mean() == pytest.approx(1 / 3, abs=0.08)


def test_linear_probe_is_scikit_learn_at_the_strength_that_validation_prefers():
    def wide(items, seed):  # 40 features of pure noise: a weak penalty overfits them
        base, noise = blobs(items, seed, noise=0.5), np.random.default_rng(seed).normal(size=(items, 40))
        return Labelled(np.c_[base.features, noise], base.labels, base.images)

    train, validation, test = wide(150, 3), wide(400, 4), wide(400, 5)
    scaler = StandardScaler().fit(train.features)
    models = {
        c: LogisticRegression(C=c, max_iter=2000).fit(scaler.transform(train.features), train.labels)
        for c in (1e-4, 0.05, 100.0)
    }
    accuracy = {c: model.score(scaler.transform(validation.features), validation.labels) for c, model in models.items()}
    best = max(accuracy, key=accuracy.get)
    assert min(accuracy.values()) < accuracy[best] != accuracy[100.0]  # else the choice would not show
    expected = models[best].predict(scaler.transform(test.features)) == test.labels
    for order in ([1e-4, 0.05, 100.0], [100.0, 0.05, 1e-4]):
        np.testing.assert_array_equal(linear_probe(train, validation, test, strengths=order), expected)


def test_equal_validation_goes_to_the_strongest_penalty():
    train, test = blobs(60, 3, noise=1.0), blobs(400, 5, noise=1.0)
    unknown = Labelled(test.features[:1], np.array(["ring"]), np.arange(1))  # wrong under every penalty
    weak, strong = (linear_probe(train, unknown, test, strengths=[strength]) for strength in (10.0, 0.01))
    assert weak.tolist() != strong.tolist()
    np.testing.assert_array_equal(linear_probe(train, unknown, test, strengths=[10.0, 0.01]), strong)


def test_one_training_label_is_predicted_without_a_fit():
    train = Labelled(np.ones((5, 2)), np.array(["ball"] * 5), np.arange(5))
    test = Labelled(np.ones((2, 2)), np.array(["ball", "cube"]), np.arange(2))
    assert linear_probe(train, test, test).tolist() == [True, False]


def test_constant_features_do_no_harm():
    splits = [blobs(200, seed) for seed in range(3)]
    wider = [Labelled(np.c_[s.features, np.full(200, 3.0)], s.labels, s.images) for s in splits]
    np.testing.assert_array_equal(linear_probe(*wider), linear_probe(*splits))


def test_knn_probe_equals_scikit_learn_with_cosine_and_softmax_weights():
    rng = np.random.default_rng(6)
    train, test = (Labelled(rng.normal(size=(n, 3)), rng.choice(SHAPES, n), np.arange(n)) for n in (300, 700))

    def peer(temperature):
        model = KNeighborsClassifier(20, metric="cosine", weights=lambda distance: np.exp((1 - distance) / temperature))
        return model.fit(train.features, train.labels).predict(test.features) == test.labels

    np.testing.assert_array_equal(knn_probe(train, test), peer(0.07))
    assert peer(0.07).tolist() != peer(0.5).tolist()  # the weights matter on these data


def test_knn_probe_with_fewer_items_than_neighbours_uses_them_all():
    train = Labelled(np.array([[1.0, 0], [1, 0.1], [0, 1]]), np.array([0, 0, 1]), np.arange(3))
    test = Labelled(np.array([[9.0, 0], [0, 9]]), np.array([0, 1]), np.arange(2))
    assert knn_probe(train, test).tolist() == [True, True]  # near votes outweigh many votes


def test_training_items_are_drawn_by_seed_up_to_the_limit():
    train = blobs(100, 0)
    drawn = train.sample(30, seed=1)
    assert len(drawn.labels) == 30
    assert (np.diff(drawn.images) > 0).all()
    np.testing.assert_array_equal(drawn.features, train.features[drawn.images])
    np.testing.assert_array_equal(drawn.labels, train.labels[drawn.images])
    np.testing.assert_array_equal(drawn.images, train.sample(30, seed=1).images)
    assert drawn.images.tolist() != train.sample(30, seed=2).images.tolist()
    assert drawn.images.max() > 60  # not the first thirty
    assert train.sample(100, seed=1) is train


@pytest.mark.parametrize(
    "probe", [lambda t, v, limit: linear_probe(t, v, v, limit=limit), lambda t, v, limit: knn_probe(t, v, limit=limit)]
)
def test_probes_keep_to_the_limit(probe):
    train, test = blobs(200, 0, noise=1.0), blobs(300, 1, noise=1.0)
    sampled = train.sample(20, seed=0)
    np.testing.assert_array_equal(probe(train, test, 20), probe(sampled, test, 4000))
    assert probe(train, test, 20).tolist() != probe(train, test, 200).tolist()


def test_patches_become_items_that_remember_their_image():
    features = np.arange(12.0).reshape(2, 3, 2)
    labels = np.array([["ball", "", "cube"], ["", "cone", ""]])
    dense = Labelled.from_patches(features, labels, keep=labels != "")
    assert dense.features.tolist() == [[0, 1], [4, 5], [8, 9]]
    assert dense.labels.tolist() == ["ball", "cube", "cone"]
    assert dense.images.tolist() == [0, 0, 1]


def test_majority_probe_knows_only_the_training_labels():
    train = Labelled(np.zeros((3, 1)), np.array(["cube", "ball", "cube"]), np.arange(3))
    test = Labelled(np.zeros((3, 1)), np.array(["ball", "cube", "cone"]), np.arange(3))
    assert majority_probe(train, test).tolist() == [False, True, False]


def test_features_without_labels_are_refused():
    with pytest.raises(ValueError, match="equally many"):
        Labelled(np.zeros((3, 1)), np.zeros(2), np.zeros(3))
    with pytest.raises(ValueError, match="not empty"):
        Labelled(np.zeros((0, 1)), np.zeros(0), np.zeros(0))
