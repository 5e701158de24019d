"""The plain Keras classifier: its size, training with the callback in every kind of model, files."""

import numpy as np
import pytest
import tf_keras
from helpers import TINY, relative_error

import asvit_tf
from asvit_tf import Phase, RetokenizationCallback, Schedule, Tokenization, Topology, UserError
from asvit_tf.design import counting

# Two batches an epoch: step 0 of the first phase, step 1 of the second.
SCHEDULE = Schedule((Phase(1, Tokenization(16, 5)), Phase(None, Tokenization(4, 1))))
LOSS = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def data():
    generator = np.random.default_rng(0)
    return generator.standard_normal((4, 32, 32, 3)).astype("float32"), np.array([0, 1, 2, 0])


def small(**options):
    return asvit_tf.build_classifier(TINY, num_classes=3, image_size=32, base_stride=4, seed=0, **options)


def sequential(classifier):
    return tf_keras.Sequential([tf_keras.layers.Rescaling(2.0), classifier])


def functional(classifier):
    images = tf_keras.Input((32, 32, 3))
    features = classifier.get_layer("backbone")(images)["pre_logits"]
    return tf_keras.Model(images, tf_keras.layers.Dense(3)(tf_keras.layers.Flatten()(features)))


def wrapped(classifier):
    images = tf_keras.Input((32, 32, 3))
    one_frame = tf_keras.layers.Reshape((1, 32, 32, 3))(images)
    logits = tf_keras.layers.TimeDistributed(classifier)(one_frame)
    return tf_keras.Model(images, tf_keras.layers.Flatten()(logits))


@pytest.mark.parametrize("options", [{}, {"position_embedding": False}, {"representation_size": 64}])
def test_parameters_are_those_counted(options):
    count = counting.count(
        Topology.parse(TINY),
        (32, 48),
        num_classes=3,
        position_embedding=options.get("position_embedding", True),
        representation="representation_size" in options,
        base_stride=2,
    )
    model = asvit_tf.build_classifier(TINY, num_classes=3, image_size=(32, 48), **options)
    assert model.count_params() == count.parameters
    assert model.output_shape == (None, 3)


@pytest.mark.parametrize(("image_size", "stride"), [(31, 1), (32, 2), ((200, 95), 2), (96, 4), (224, 4)])
def test_the_stride_follows_the_image_size(image_size, stride):
    backbone = asvit_tf.build_classifier(TINY, num_classes=3, image_size=image_size).get_layer("backbone")
    rows, columns = (image_size, image_size) if isinstance(image_size, int) else image_size
    grid = (-(-rows // stride), -(-columns // stride))
    assert backbone.tokenization == Tokenization(stride)
    assert backbone.position_embedding.grid == grid
    assert tuple(backbone.output_specs["2"][1:3]) == grid
    assert asvit_tf.AsViT.from_config(backbone.get_config()).position_embedding.grid == grid


@pytest.mark.parametrize("kind", [sequential, functional])  # README: the classifier itself.
def test_fit_with_the_callback_trains_each_step_at_its_tokens(kind):
    classifier = small()
    backbone = classifier.get_layer("backbone")
    model = kind(classifier)
    grids = []
    call = backbone.stages[0].call

    def noted(x, **kwargs):
        grids.append(tuple(x.shape[1:3]))
        return call(x, **kwargs)

    backbone.stages[0].call = noted
    kernel = backbone.stem.kernel
    before = kernel.numpy()
    model.compile("sgd", LOSS)
    images, labels = data()
    model.fit(images, labels, batch_size=2, verbose=0, shuffle=False, callbacks=[RetokenizationCallback(SCHEDULE)])
    assert list(dict.fromkeys(grids)) == [(2, 2), (8, 8)]
    assert backbone.stem.kernel is kernel
    assert np.abs(kernel.numpy() - before).max() > 0


class Holder(tf_keras.layers.Layer):
    """A layer, not a model, that holds its parts where users put them."""

    def __init__(self, part, **kwargs):
        super().__init__(**kwargs)
        self.parts = {"inner": [part]}

    def call(self, images, training=None):
        return self.parts["inner"][0](images, training=training)


class Subclassed(tf_keras.Model):
    """A model that holds its network at any depth, under any name."""

    def __init__(self, part):
        super().__init__()
        self.network = Holder(part)

    def call(self, images, training=None):
        return self.network(images, training=training)


@pytest.mark.parametrize("kind", [wrapped, Subclassed, lambda classifier: tf_keras.Sequential([Holder(classifier)])])
def test_a_backbone_is_found_anywhere(kind):
    classifier = small()
    callback = RetokenizationCallback(SCHEDULE)
    callback.set_model(kind(classifier))
    assert callback.backbone is classifier.get_layer("backbone")


def test_a_model_without_one_backbone_is_refused_by_the_name_of_the_argument():
    images, labels = data()
    plain = tf_keras.Sequential([tf_keras.layers.Flatten(), tf_keras.layers.Dense(3)], name="plain")
    plain.compile("sgd", LOSS)
    with pytest.raises(UserError, match=r"model 'plain' has 0 AsViT layers; name .* by the argument backbone$"):
        plain.fit(images, labels, verbose=0, callbacks=[RetokenizationCallback(SCHEDULE)])

    image = tf_keras.Input((32, 32, 3))
    first, second = small(name="first"), small(name="second")
    both = tf_keras.Model(image, first(image) + second(image), name="both")
    both.compile("sgd", LOSS)
    with pytest.raises(UserError, match="model 'both' has 2 AsViT layers"):
        both.fit(images, labels, verbose=0, callbacks=[RetokenizationCallback(SCHEDULE)])
    chosen = RetokenizationCallback(SCHEDULE, backbone=second.get_layer("backbone"))
    chosen.set_model(both)
    assert chosen.backbone is second.get_layer("backbone")


FORMS = ["model.keras", "model.h5", "saved_model"]


def changed(**options):
    """A model none of whose variables or options is that of a fresh one."""
    model = small(dropout=0.5, stochastic_depth=0.2, representation_size=16, **options)
    model.get_layer("backbone").set_tokenization(Tokenization(8, 2))
    for variable in model.variables:  # Norms and biases too differ from those of a fresh model.
        variable.assign_add(np.random.default_rng(len(variable.shape)).standard_normal(variable.shape) * 0.1)
    return model


@pytest.mark.parametrize("form", FORMS)
def test_files_hold_the_whole_model(tmp_path, form):
    model = changed()
    images, _ = data()
    model.save(tmp_path / form)
    loaded = tf_keras.models.load_model(tmp_path / form)
    expected = model(images)
    np.testing.assert_array_equal(loaded(images), expected)
    assert loaded.get_layer("backbone").tokenization == Tokenization(8, 2)
    assert loaded.get_layer("dropout").rate == 0.5


@pytest.mark.parametrize("form", ["model.weights.h5", "model.h5", "checkpoint"])
def test_weights_alone(tmp_path, form):
    model = changed()
    images, _ = data()
    model.save_weights(tmp_path / form)
    fresh = asvit_tf.build_classifier(TINY, 3, image_size=32, base_stride=4, seed=1, representation_size=16)
    fresh.get_layer("backbone").set_tokenization(Tokenization(8, 2))
    assert relative_error(fresh(images), model(images)) > 0.1
    fresh.load_weights(tmp_path / form)
    np.testing.assert_array_equal(fresh(images), model(images))


def test_names_of_weights_differ():
    names = [variable.name for variable in changed().variables]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(("form", "policy"), zip(FORMS, ["mixed_float16", "mixed_bfloat16", "mixed_float16"]))
def test_files_hold_the_policy(tmp_path, form, policy, clean_policy):
    tf_keras.mixed_precision.set_global_policy(policy)
    model = changed()
    images, _ = data()
    expected = model(images)
    model.save(tmp_path / form)
    tf_keras.mixed_precision.set_global_policy("float32")
    loaded = tf_keras.models.load_model(tmp_path / form)
    np.testing.assert_array_equal(loaded(images), expected)
    backbone = loaded.get_layer("backbone")
    features = backbone(images)["5"]
    assert (features.dtype.name, backbone.stem.kernel.dtype.name) == (policy.removeprefix("mixed_"), "float32")
    assert backbone.stages[0].blocks[0].fc1.dtype_policy.name == policy
    assert tf_keras.mixed_precision.global_policy().name == "float32"


def test_a_policy_holds_for_all_layers_of_one_backbone():
    spec = tf_keras.layers.InputSpec(shape=[None, 32, 32, 3])
    backbone = asvit_tf.AsViT(TINY, spec, dtype="mixed_bfloat16")
    assert backbone(data()[0])["5"].dtype == "bfloat16"
    assert asvit_tf.AsViT(TINY, spec)(data()[0])["5"].dtype == "float32"


def test_images_without_a_known_size_are_refused_in_one_sentence():
    import tensorflow as tf

    model = small()
    model.compile("sgd", LOSS)
    images, labels = data()
    spec = (tf.TensorSpec([None, None, None, 3]), tf.TensorSpec([None], tf.int64))
    batches = tf.data.Dataset.from_generator(lambda: [(images, labels)], output_signature=spec)
    with pytest.raises(Exception, match=r"shape \(None, None, None, 3\); height and width must be known .*32, 32"):
        model.fit(batches, verbose=0)


def test_keras_3_is_named():
    import tensorflow as tf

    backbone = small().get_layer("backbone")
    with pytest.raises(UserError, match=r"^AsViT is a tf_keras model and cannot take a tensor of Keras 3"):
        backbone(tf.keras.Input((32, 32, 3)))
    plain = tf.keras.Sequential([tf.keras.layers.Flatten(), tf.keras.layers.Dense(3)])
    with pytest.raises(UserError, match=r"is for models of tf_keras, and 'sequential.*' is one of Keras 3"):
        RetokenizationCallback(SCHEDULE).set_model(plain)


def test_options_reach_the_layers():
    images, _ = data()
    np.testing.assert_array_equal(small()(images), small()(images))  # One seed, the same weights.
    other = asvit_tf.build_classifier(TINY, num_classes=3, image_size=32, base_stride=4, seed=1)
    assert relative_error(other(images), small()(images)) > 0.1
    kernels = [
        small(initialization=name).get_layer("backbone").stages[0].blocks[0].fc1.kernel
        for name in ("released", "lecun")
    ]
    assert np.std(kernels[1]) > 5 * np.std(kernels[0])
    tf_keras.utils.set_random_seed(0)
    half = small(dropout=0.5)
    features = half.get_layer("dropout")(np.ones((1, 10_000), "float32"), training=True).numpy()
    assert set(np.unique(features)) == {0.0, 2.0}
    assert abs(np.mean(features == 0) - 0.5) < 0.02  # Four standard errors.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 0}, "num_classes is 0; allowed are whole numbers from 1"),
        ({"dropout": 1.0}, "dropout is 1.0; allowed are rates from 0 to below 1"),
        ({"image_size": 0}, "image size is 0 x 0; both sides must be known and at least 1"),
        ({"initialization": "he"}, "unknown initialization 'he'; allowed are released, lecun"),
        ({"window": "wide"}, "unknown window 'wide'; allowed are split, fixed"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(UserError, match=f"^{message}$"):
        asvit_tf.build_classifier(**{"topology": TINY, "num_classes": 3, "image_size": 32, **options})
