"""Do the tests notice? Each fault below is planted in a copy of the package, and the test named with it must fail.

A comparison of two models is only as good as the engine under it, and the worst faults of such an engine (a mask that
looks one token ahead, a loss in one direction, an order that differs between the arms) raise no error: they only move
numbers. These checks prove that the suite would not stay green over them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

import archlab

pytestmark = pytest.mark.slow

PACKAGE = Path(archlab.__file__).parent
TESTS = Path(__file__).parents[1]
# The copy must be what is tested, not the installed package.
PROGRAM = """
import sys, pytest, archlab
assert archlab.__file__ == sys.argv[1], archlab.__file__
sys.exit(pytest.main(sys.argv[2:]))
"""


@dataclass(frozen=True)
class Fault:
    """A fault and the test that must notice it.

    Attributes:
        what: is wrong, in words.
        file: of the package.
        old: text that occurs in it exactly once; new: what stands there instead.
        test: path and name of the test, below `tests`.
    """

    what: str
    file: str
    old: str
    new: str
    test: str


MASKS = [
    Fault(
        "causal masks show the next token",
        "layers/masks.py",
        "key_positions[:, None, :] <= query_positions[:, :, None]",
        "key_positions[:, None, :] <= query_positions[:, :, None] + 1",
        "layers/test_masks.py::test_causal_compares_absolute_positions",
    ),
    Fault(
        "a prefix is causal",
        "layers/masks.py",
        "causal(positions, positions) | padding(is_prefix)",
        "causal(positions, positions)",
        "layers/test_masks.py::test_prefix_is_bidirectional_inside_and_causal_after",
    ),
    Fault(
        "masks are combined by or",
        "layers/masks.py",
        "torch.logical_and",
        "torch.logical_or",
        "layers/test_masks.py::test_combine_broadcasts_and_needs_every_consent",
    ),
    Fault(
        "the backbone attends to padding",
        "vl/backbone.py",
        "mask=masks.padding(mask)",
        "mask=None",
        "vl/test_backbone.py::test_more_padding_changes_no_pooled_state",
    ),
    Fault(
        "the target encoder attends to padding",
        "vl/target_encoder.py",
        "mask=masks.padding(target_mask)",
        "mask=None",
        "vl/test_target_encoder.py::test_padding_says_nothing",
    ),
    Fault(
        "the image of the token arm does not see the query",
        "vl/arms.py",
        "masks.prefix(in_prefix.expand_as(mask), positions)",
        "masks.causal(positions, positions)",
        "vl/test_arms.py::test_the_token_arm_sees_image_and_query_exactly_as_vljepa_does",
    ),
    Fault(
        "padding in the middle shifts the positions after it",
        "vl/backbone.py",
        "(mask.long().cumsum(1) - 1).clamp(min=0)",
        "torch.arange(mask.shape[1], device=mask.device).expand_as(mask)",
        "vl/test_backbone.py::test_positions_count_real_tokens_and_padding_shifts_nothing",
    ),
    Fault(
        "means count padding",
        "layers/pooling.py",
        "mask.sum(1, keepdim=True).clamp(min=1)",
        "mask.shape[1]",
        "layers/test_pooling.py::test_masked_mean_averages_real_tokens_only",
    ),
]
LOSSES = [
    Fault(
        "InfoNCE in one direction only",
        "objectives/contrastive.py",
        "_cross_entropy(logits.T, positives.T)",
        "_cross_entropy(logits, positives)",
        "objectives/test_contrastive.py::test_equals_loops_in_both_directions_and_in_gradients",
    ),
    Fault(
        "paraphrases are negatives",
        "objectives/contrastive.py",
        "own | ((batch.meaning[:, None] == batch.meaning) & known[:, None]), None",
        "own, None",
        "objectives/test_contrastive.py::test_meaning_takes_every_paraphrase_and_unknown_meanings_stand_alone",
    ),
    Fault(
        "unknown meanings are paraphrases of each other",
        "objectives/contrastive.py",
        " & known[:, None]",
        "",
        "objectives/test_contrastive.py::test_meaning_takes_every_paraphrase_and_unknown_meanings_stand_alone",
    ),
    Fault(
        "the token arm predicts the token it reads",
        "objectives/next_token.py",
        "batch.target[:, 1:].masked_fill(~batch.target_mask[:, 1:]",
        "batch.target[:, :-1].masked_fill(~batch.target_mask[:, 1:]",
        "objectives/test_next_token.py::test_loss_is_the_mean_over_real_answer_tokens",
    ),
    Fault(
        "the loss counts padding",
        "objectives/next_token.py",
        ".masked_fill(~batch.target_mask[:, 1:], _IGNORED)",
        "",
        "objectives/test_next_token.py::test_padding_has_neither_loss_nor_gradient",
    ),
    Fault(
        "the decoder trains the target encoder",
        "objectives/embedding_prediction.py",
        'target = output.embeddings["target"]',
        "target = model.embed(batch)[1]",
        "objectives/test_embedding_prediction.py::"
        "test_the_decoder_teaches_nothing_but_itself_and_is_taught_by_nothing_else",
    ),
    Fault(
        "the decoder's gradient is clipped together with the backbone's",
        "train/run.py",
        'clipped_apart=("decoder",) if config.arm == "vljepa" else ()',
        "clipped_apart=()",
        "train/test_run.py::test_the_size_of_the_decoder_changes_nothing_else",
    ),
]
VARIANTS = [
    Fault(
        "a frozen target encoder asks for a gradient",
        "vl/arms.py",
        "            arm.target_encoder.requires_grad_(False)\n",
        "            pass\n",
        "vl/test_recipes.py::test_all_that_is_trained_learns_and_all_that_is_frozen_does_not[vljepa-l1]",
    ),
    Fault(
        "a hybrid trains more than its decoder",
        "vl/arms.py",
        "            arm.requires_grad_(False)\n",
        "",
        "vl/test_recipes.py::test_all_that_is_trained_learns_and_all_that_is_frozen_does_not[hybrid]",
    ),
    Fault(
        "hidden visual tokens are seen",
        "vl/predictors.py",
        "torch.where(visible[:, :, None], visual, self.mask_token.to(visual.dtype))",
        "visual + 0 * self.mask_token",
        "vl/test_recipes.py::test_hidden_visual_tokens_are_not_seen_and_language_is",
    ),
    Fault(
        "the causal predictor is not causal",
        "vl/predictors.py",
        "masks.combine(masks.padding(mask), masks.causal(positions, positions))",
        "masks.padding(mask)",
        "vl/test_recipes.py::test_ablations_of_the_joint_predictor[causal]",
    ),
    Fault(
        "the decoder of an encoder-decoder reads ahead",
        "vl/arms.py",
        "        attend = masks.combine(masks.padding(mask), masks.causal(positions, positions))\n",
        "        attend = masks.padding(mask)\n",
        "vl/test_recipes.py::test_an_encoder_decoder_reads_the_image_as_vljepa_does_and_the_answer_causally",
    ),
    Fault(
        "VICReg counts variances as covariances",
        "objectives/regularizers.py",
        "covariance.square().sum() - covariance.diagonal().square().sum()",
        "covariance.square().sum()",
        "objectives/test_regression.py::test_the_covariance_term_is_the_sum_of_squares_off_the_diagonal",
    ),
]
GRID = [
    Fault(
        "cells on other data share a key",
        "compare/grid/cells.py",
        "[given, self.test_items, self.digests]",
        "[given, self.test_items]",
        "compare/grid/test_protocol.py::test_a_cell_is_its_configuration_its_data_and_what_is_measured",
    ),
    Fault(
        "tuning sees the test split",
        "compare/grid/cells.py",
        "Cell(relevant(short), 0, inputs.digests(short))",
        "Cell(relevant(short), protocol.test_items, inputs.digests(short))",
        "compare/grid/test_protocol.py::test_all_arms_try_the_same_learning_rates_in_short_runs_that_never_see_test",
    ),
    Fault(
        "arms are compared across seeds",
        "compare/grid/summary.py",
        "ours[seed] - theirs[seed] for",
        "ours[seed] - theirs[min(theirs)] for",
        "compare/grid/test_summary.py::test_differences_are_taken_seed_by_seed",
    ),
    Fault(
        "an interval over seeds leaves out a tail",
        "compare/grid/summary.py",
        "t.ppf((1 + _LEVEL) / 2,",
        "t.ppf(_LEVEL,",
        "compare/grid/test_summary.py::test_an_interval_is_students_over_seeds",
    ),
]
PRETRAINING = [
    Fault(
        "SIGReg ignores the imaginary part",
        "objectives/regularizers.py",
        " + phases.sin().mean(0).square()",
        "",
        "objectives/test_regularizers.py::test_off_centre_the_imaginary_part_counts",
    ),
    Fault(
        "SIGReg does not grow with the number of samples",
        "objectives/regularizers.py",
        "return 2 * count *",
        "return 2 * 100 *",
        "objectives/test_regularizers.py::test_normal_samples_give_its_expectation_whatever_their_number",
    ),
    Fault(
        "points that one view does not show count",
        "objectives/lejepa.py",
        "local.embeddings[:, batch.visible]",
        "local.embeddings.flatten(1, 2)",
        "objectives/test_lejepa.py::test_points_that_a_view_does_not_show_do_not_count",
    ),
    Fault(
        "points move the wrong way between views",
        "data/views.py",
        "torch.linalg.solve(linear, (spots - shift[:, None]).transpose(1, 2))",
        "(linear @ (spots - shift[:, None]).transpose(1, 2))",
        "data/test_views.py::test_a_point_is_the_same_spot_in_every_view",
    ),
    Fault(
        "masked patches do not count, visible ones do",
        "objectives/masked_autoencoder.py",
        "return error[masked].mean()",
        "return error[~masked].mean()",
        "objectives/test_masked_autoencoder.py::test_loss_counts_masked_patches_only",
    ),
]
ORDER = [
    Fault(
        "a batch mixes tasks",
        "data/order.py",
        "for group in groups:",
        "for group in [np.concatenate(list(groups))]:",
        "data/test_order.py::test_a_batch_holds_one_task",
    ),
    Fault(
        "a longer run reads another order",
        "data/order.py",
        "default_rng([seed, epoch])",
        "default_rng([seed, epoch, steps])",
        "data/test_order.py::test_a_longer_order_begins_with_the_shorter_one",
    ),
    Fault(
        "the arms read different orders",
        "train/run.py",
        "config.optimizer.batch_size, config.seed, tasks)",
        'config.optimizer.batch_size, config.seed + (config.arm == "token"), tasks)',
        "vl/test_arms.py::test_both_arms_read_bit_identical_batches_under_the_shared_budget",
    ),
    Fault(
        "the arms start from different backbones",
        "vl/arms.py",
        "torch.manual_seed(config.seed)\n",
        "torch.manual_seed(config.seed + len(config.arm))\n",
        "vl/test_backbone.py::test_all_arms_of_one_seed_start_from_bit_identical_backbones",
    ),
    Fault(
        "the last surface form is drawn too often",
        "data/batch.py",
        "forms[int(draw) % len(forms)]",
        "forms[min(int(draw), len(forms) - 1)]",
        "data/test_batch.py::test_draws_pick_forms_modulo_their_number",
    ),
    Fault(
        "the shuffled-image control shows the own image",
        "data/batch.py",
        "        if images is None:\n",
        "        if True:\n",
        "evaluate/test_measure.py::test_shuffled_images_change_the_image_and_nothing_else",
    ),
    Fault(
        "a blind run sees the right image where neighbours share it",
        "train/run.py",
        "derangement(len(collate.split.images), step)[own]",
        "np.roll(own, 1)",
        "train/test_run.py::test_a_blind_run_never_sees_the_right_image_and_all_else_is_the_same",
    ),
    Fault(
        "cached features of another encoder are taken",
        "data/features.py",
        "{split.image_digest} {encoder.digest} {views}",
        "{split.image_digest} {views}",
        "data/test_features.py::test_every_input_that_matters_has_a_file_of_its_own_and_texts_do_not",
    ),
    Fault(
        "one group of images is in two splits",
        "data/pairs/splits.py",
        'parent[root(f"group {group}")] = here',
        "pass",
        "data/pairs/test_splits.py::test_no_group_and_no_image_is_ever_in_two_splits",
    ),
    Fault(
        "the encoder is pretrained on scenes that are trained on later",
        "train/pretrain.py",
        'split="pretrain"',
        'split="train"',
        "train/test_pretrain.py::test_scenes_come_from_a_stream_of_their_own_and_hold_no_held_out_combination",
    ),
]
TRAINING = [
    Fault(
        "a resumed run draws other random numbers",
        "train/loop.py",
        '    torch.set_rng_state(state["random"]["cpu"])\n',
        "",
        "train/test_loop.py::test_an_interrupted_and_resumed_run_equals_an_uninterrupted_one",
    ),
    Fault(
        "gains and biases decay",
        "train/optim.py",
        "for size in parameter.shape) >= 2",
        "for size in parameter.shape) >= 1",
        "train/test_optim.py::test_only_matrices_decay",
    ),
    Fault(
        "the first step learns nothing",
        "train/schedule.py",
        "(step + 1) / warmup",
        "step / warmup",
        "train/test_schedule.py::test_every_step_learns_and_none_exceeds_the_peak",
    ),
]
DECODING = [
    Fault(
        "an answer stays in the cache of its prefix",
        "vl/decoding.py",
        "    for cache in prefix.caches:\n        cache.crop(start)\n    return",
        "    return",
        "vl/test_decoding.py::test_one_reading_of_the_prefix_serves_any_number_of_answers",
    ),
    Fault(
        "packed candidates see each other",
        "vl/decoding.py",
        "(owner[:, None] == owner) & ",
        "",
        "vl/test_decoding.py::test_packed_candidates_score_as_each_does_alone",
    ),
    Fault(
        "every token of an answer stands at the same place",
        "vl/decoding.py",
        "        position = position + 1\n",
        "",
        "vl/test_decoding.py::test_cached_decoding_equals_reading_everything_again_for_every_token",
    ),
    Fault(
        "the padding of candidates is scored",
        "vl/decoding.py",
        "torch.cat(scores, 1) * real",
        "torch.cat(scores, 1)",
        "vl/test_decoding.py::test_packed_candidates_score_as_each_does_alone",
    ),
    Fault(
        "a user's text can end a sequence",
        "data/tokenizer.py",
        "tokenizer.encode_special_tokens = True",
        "tokenizer.encode_special_tokens = False",
        "data/test_tokenizer.py::test_a_text_that_spells_a_special_token_is_text",
    ),
    Fault(
        "a new token sees what lies before its window",
        "layers/causal.py",
        "if self.mask is None and held < window:",
        "if self.mask is None:",
        "layers/test_causal.py::test_within_a_window_one_new_token_needs_a_mask_where_more_is_kept_than_it_sees",
    ),
    Fault(
        "layers that lie side by side get no gradients",
        "layers/shared_input.py",
        " or torch.is_grad_enabled()",
        "",
        "layers/test_shared_input.py::test_gradients_reach_the_weights_of_each",
    ),
    Fault(
        "a target is written from the padding of its source too",
        "generate/conditioned.py",
        "memory_mask=written.memory_mask",
        "memory_mask=None",
        "generate/test_conditioned.py::test_greedy_equals_transformers_with_sources_of_different_lengths",
    ),
]
METRICS = [
    Fault(
        "CIDEr counts a document once for each of its references",
        "evaluate/captioning.py",
        "documents.update(set().union(*(_grams(words(text)) for text in texts)))",
        "documents.update(gram for text in texts for gram in _grams(words(text)))",
        "evaluate/test_captioning.py::test_cider_d_equals_the_reference_implementation_on_a_long_corpus",
    ),
    Fault(
        "captions are compared with the canonical form alone",
        "evaluate/measure.py",
        "[list(example.targets) for example in examples]",
        "[[example.targets[0]] for example in examples]",
        "evaluate/test_measure.py::test_captions_are_compared_with_every_surface_form",
    ),
    Fault(
        "ties reach one place too far",
        "evaluate/retrieval.py",
        "draw < k - self.above",
        "draw <= k - self.above",
        "evaluate/test_retrieval.py::test_first_place_is_rank_one_and_recall_counts_places_inclusively",
    ),
    Fault(
        "both directions of retrieval are the same one",
        "evaluate/measure.py",
        '("text_to_image", similarity.T)',
        '("text_to_image", similarity)',
        "evaluate/test_measure.py::test_the_two_directions_of_retrieval_are_told_apart",
    ),
    Fault(
        "likelihood retrieval prefers likely captions",
        "evaluate/measure.py",
        "conditional - log_prior",
        "conditional",
        "evaluate/test_measure.py::test_likelihood_retrieval_takes_off_what_is_likely_without_the_image",
    ),
    Fault(
        "a normalised log-probability is not divided",
        "evaluate/vqa.py",
        "return log_probs / lengths",
        "return log_probs",
        "evaluate/test_vqa.py::test_length_normalisation_frees_long_candidates_from_their_length",
    ),
    Fault(
        "the open vocabulary counts towards accuracy",
        "evaluate/measure.py",
        "[kind for kind in right if kind != OPEN_VOCABULARY]",
        "list(right)",
        "evaluate/test_measure.py::test_the_open_vocabulary_is_reported_as_classification_and_counts_towards_no_accuracy",
    ),
    Fault(
        "convergence is within a hundredth, not one percent",
        "evaluate/efficiency.py",
        '(1 - CONVERGED) * curve[-1]["mean"]',
        'curve[-1]["mean"] - CONVERGED',
        "evaluate/test_efficiency.py::test_converged_is_the_first_checkpoint_within_one_percent_of_the_final_score",
    ),
    Fault(
        "an arm at its blind control is not named",
        "compare/caveats.py",
        "and not scores.clearly_above(score, blind.score)",
        'and score["value"] < blind.score["value"]',
        "compare/report/test_caveats.py::test_a_kind_on_which_both_arms_are_blind_is_named_with_all_intervals",
    ),
    Fault(
        "a comparison measures the test split anew",
        "compare/trial.py",
        "if not path.exists():",
        "if True:",
        "compare/test_trial.py::test_what_was_measured_is_read_and_not_measured_again",
    ),
]
STATISTICS = [
    Fault(
        "questions about one image count as independent",
        "evaluate/statistics.py",
        "cluster = np.unique(clusters, return_inverse=True)[1]",
        "cluster = np.arange(len(clusters))",
        "evaluate/test_statistics.py::test_items_of_one_image_that_agree_widen_the_interval",
    ),
    Fault(
        "two seeds make a winner",
        "evaluate/statistics.py",
        "len(per_seed) < SEEDS_FOR_A_WINNER",
        "len(per_seed) < 2",
        "evaluate/test_statistics.py::test_winner_needs_three_seeds_and_an_interval_without_zero",
    ),
]
EXPERTS = [
    Fault(
        "the correction of a router weights the experts",
        "layers/moe.py",
        "weights = scores.gather(1, experts)",
        "weights = preference.gather(1, experts)",
        "layers/test_moe.py::test_the_correction_chooses_but_does_not_weigh",
    ),
    Fault(
        "what experts give back is left in their order",
        "layers/moe.py",
        "out[order.argsort()]",
        "out[order]",
        "layers/test_moe.py::test_sorted_dispatch_equals_asking_every_expert_about_every_token",
    ),
    Fault(
        "rebalancing sends tokens to the experts that have most",
        "layers/moe.py",
        "(load.mean() - load).sign()",
        "(load - load.mean()).sign()",
        "layers/test_moe.py::test_rebalancing_evens_out_the_load",
    ),
    Fault(
        "padding counts in the load of the experts",
        "layers/moe.py",
        "load = torch.stack([routing.load(mask) for",
        "load = torch.stack([routing.load() for",
        "layers/test_moe.py::test_the_balancing_loss_and_its_gradient_are_those_of_transformers",
    ),
    Fault(
        "latent attention caches its shared key as it was before the turn",
        "layers/mla.py",
        "latent, shared_key = self.kv_norm(latent), rotation(shared_key)",
        "latent, shared_key = self.kv_norm(latent), shared_key",
        "layers/test_mla.py::test_latent_attention_is_what_the_paper_says",
    ),
    Fault(
        "latents that are read as they are have other scores",
        "layers/mla.py",
        "latent, mask, scale=self.scale",
        "latent, mask",
        "layers/test_mla.py::test_any_chunking_equals_the_whole_sequence_and_keeps_one_narrow_vector_per_token",
    ),
    Fault(
        "the extra prediction reads the state of the token that it is told",
        "models/multi_token.py",
        "self.state_norm(states[:, :-1])",
        "self.state_norm(states[:, 1:])",
        "models/test_multi_token.py::test_modules_one_after_the_other_are_what_the_paper_says",
    ),
]

TEXT = [
    Fault(
        "accumulated batches weigh the same however many targets they have",
        "train/loop.py",
        "shares.append(output.weight / first)",
        "shares.append(1.0)",
        "train/test_loop_features.py::test_accumulated_batches_make_the_update_of_one_large_batch_however_uneven_they_are",
    ),
    Fault(
        "the average of the weights is not saved",
        "train/loop.py",
        'parts |= {"average": average} if average is not None else {}',
        "pass",
        "train/test_loop_features.py"
        "::test_an_interrupted_and_resumed_run_equals_an_uninterrupted_one[exponential average]",
    ),
    Fault(
        "the scale of float16 is not saved",
        "train/loop.py",
        'parts |= {"scaler": scaler} if scaler.is_enabled() else {}',
        "pass",
        "train/test_loop_features.py::test_float16_leaves_out_a_step_that_overflows_and_halves_the_scale",
    ),
    Fault(
        "recomputed blocks drop other values than the first time",
        "train/recompute.py",
        "use_reentrant=False",
        "use_reentrant=False, preserve_rng_state=False",
        "train/test_loop_features.py::test_recomputed_blocks_give_the_same_gradients_and_keep_less_in_memory",
    ),
    Fault(
        "Muon takes the embeddings too",
        "train/optim.py",
        " and any(part in name for part in hidden)",
        "",
        "train/test_loop_features.py::test_muon_makes_the_update_of_a_hidden_matrix_nearly_orthogonal_and_leaves_the_rest_to_adamw",
    ),
    Fault(
        "wsd comes down from the start",
        "train/schedule.py",
        "min(1.0, (steps - step) / decay)",
        "(steps - step) / steps",
        "train/test_schedule.py::test_wsd_is_stable_until_its_last_part_and_then_falls_in_a_line",
    ),
    Fault(
        "n-grams back off to how often a symbol was seen",
        "evaluate/ngram.py",
        "if n < order:",
        "if False:",
        "evaluate/test_ngram.py::test_a_bigram_leaves_its_discount_to_the_symbols_that_follow_many_others",
    ),
    Fault(
        "characters of validation are trained on",
        "data/text/sets.py",
        "Characters(text[:cut], text[cut:])",
        "Characters(text, text[cut:])",
        "train/text/test_characters.py::test_every_character_of_validation_is_predicted_once_and_none_of_it_is_trained_on",
    ),
    Fault(
        "a name that occurs twice is trained on and held out",
        "data/text/sets.py",
        "(names[i] in chosen) == out",
        "(names[i] in chosen and names.index(names[i]) == i) == out",
        "data/text/test_sets.py::test_names_are_held_out_whole_by_lot_and_equal_ones_together",
    ),
    Fault(
        "the LSTM attends to padding",
        "models/lstm.py",
        "scores.masked_fill(~memory_mask[:, None], torch.finfo(scores.dtype).min)",
        "scores",
        "models/test_lstm.py::test_source_padding_changes_nothing",
    ),
    Fault(
        "the order of batches is that of the first epoch for ever",
        "data/text/buckets.py",
        "np.random.default_rng([self.seed, epoch])",
        "np.random.default_rng(self.seed)",
        "data/text/test_buckets.py::test_epochs_and_seeds_differ",
    ),
    Fault(
        "the loss of a translation counts padding",
        "objectives/sequence.py",
        ".masked_fill(~batch.target_mask[:, 1:], _IGNORED)",
        "",
        "objectives/test_sequence.py::test_translation_loss_is_the_definition_over_real_tokens",
    ),
    Fault(
        "the tail of a long review is lost",
        "train/text/sentiment.py",
        "*ids[len(ids) - tail :]]",
        "*ids[most - tail : most]]",
        "train/text/test_tasks.py::test_head_and_tail_keep_both_ends_and_the_right_number",
    ),
]

SELECTIVE = [
    Fault(
        "drift makes captions of streams wrong",
        "data/streams/scenes.py",
        "0.9 * DOMINANCE_MARGIN / 4",
        "3 * DOMINANCE_MARGIN",
        "data/streams/test_streams.py::test_the_caption_of_a_segment_is_true_of_each_of_its_frames",
    ),
    Fault(
        "an event may change nothing that is said",
        "data/streams/scenes.py",
        "if _fits(after) and _meaning(after) != before:",
        "if _fits(after):",
        "data/streams/test_streams.py::test_every_event_changes_what_is_to_be_said",
    ),
    Fault(
        "the trigger weighs a change of one frame like one that lasts",
        "compare/selective/trigger.py",
        "length * before / self._count * float(gap @ gap)",
        "float(gap @ gap)",
        "compare/selective/test_trigger.py::"
        "test_a_segment_begins_where_leaving_its_frames_would_cost_more_squared_error_than_the_threshold",
    ),
    Fault(
        "clusters of a stream need not be connected in time",
        "compare/selective/policies.py",
        "connectivity=chain, ",
        "",
        "compare/selective/test_policies.py::test_ward_merges_neighbours_in_time_only",
    ),
    Fault(
        "clustering raw features looks at embeddings",
        "compare/selective/policies.py",
        '_ward("features", pooled=True)',
        '_ward("embeddings", pooled=True)',
        "compare/selective/test_policies.py::test_what_watches_raw_features_sees_only_them",
    ),
    Fault(
        "annotations stand at the start of their segments",
        "compare/selective/scoring.py",
        "times - segment.middle",
        "times - segment.start",
        "compare/selective/test_scoring.py::test_an_annotation_is_paired_with_the_decode_nearest_to_its_middle",
    ),
    Fault(
        "a policy's own decodes weigh the words it is judged by",
        "compare/selective/scoring.py",
        ", corpus=self._corpus",
        "",
        "compare/selective/test_scoring.py::"
        "test_cider_weighs_words_by_the_annotations_however_often_a_policy_says_them",
    ),
    Fault(
        "thresholds are tuned on the test streams",
        "compare/selective/cell.py",
        'streams("validation", protocol.validation_streams)',
        'streams("test", protocol.validation_streams)',
        "compare/selective/test_selective.py::test_thresholds_come_from_validation_streams_alone",
    ),
    Fault(
        "a tuned policy is read at whatever number of decodes it has",
        "compare/selective/summary.py",
        "np.interp(1.0, rates[order], scores[order])",
        "scores[np.abs(rates - 1.0).argmin()]",
        "compare/selective/test_summary.py::test_a_tuned_policy_is_read_at_exactly_one_decode_per_event",
    ),
]

FAULTS = [
    *MASKS,
    *LOSSES,
    *VARIANTS,
    *GRID,
    *PRETRAINING,
    *ORDER,
    *TRAINING,
    *TEXT,
    *DECODING,
    *METRICS,
    *STATISTICS,
    *EXPERTS,
    *SELECTIVE,
]


@contextmanager
def copied_package() -> Iterator[Path]:
    """A copy of the package, to be spoiled; compiled files come along and save the time of compiling again."""
    with tempfile.TemporaryDirectory() as folder:
        yield shutil.copytree(PACKAGE, Path(folder).resolve() / "archlab")


def run(package: Path, *tests: str) -> subprocess.CompletedProcess[str]:
    """Run tests, named below `tests`, against a copy of the package."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV_", "COVERAGE_"))
    }
    environment["PYTHONPATH"] = str(package.parent)
    options = ["-q", "-x", "-p", "no:cacheprovider", "--no-cov"]
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, str(package / "__init__.py"), *options, *(f"tests/{test}" for test in tests)],
        cwd=TESTS.parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
    )


def test_the_named_tests_pass_on_an_unspoiled_copy() -> None:
    with copied_package() as package:
        done = run(package, *sorted({fault.test for fault in FAULTS}))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.what for fault in FAULTS])
def test_a_planted_fault_is_noticed(fault: Fault) -> None:
    with copied_package() as package:
        source = (package / fault.file).read_text(encoding="utf-8")
        assert source.count(fault.old) == 1, f"{fault.file}: the text to spoil must occur exactly once"
        (package / fault.file).write_text(source.replace(fault.old, fault.new), encoding="utf-8")
        done = run(package, fault.test)
    assert done.returncode == 1, done.stdout + done.stderr  # 2 and more: pytest itself failed, or found no such test
    assert f"FAILED tests/{fault.test}" in done.stdout, done.stdout
