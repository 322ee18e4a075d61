# Every model and every figure that is shipped: each step once, in order, with the commands of docs/emoji-world.md and
# docs/results.md. The Makefile calls this file:
#
#   make world            all models of hub/, from the pictures to emoji-cbsae
#   make results          these, and every figure, card and picture
#   make results-scores   one step, with the steps that it needs; ALONE=1: without them
#   make keep-world       takes what is in hub/ and runs/ for made: `make results` then makes the figures alone
#   make keep-clip        the same of one step, trained by hand say; what was made of an older one starts over
#
# A step leaves two marks in runs/made: NAME.begun, when what an earlier run has left of it is removed, and NAME at its
# end. Stopped between the two, it goes on where it was. A step starts over when one that it needs has been made again, or
# when NAME.begun is deleted. A finished model in hub/ is trained over.
BIN := .venv/bin
PY = $(BIN)/python
LAUNCH = $(BIN)/accelerate launch
MADE := runs/made
ALONE :=

R := training/recipes/emoji.yaml
W := training/recipes/emoji-diffusion.yaml
D := training/recipes/emoji-dino.yaml
WORLD_OF := training.emoji_world

.NOTPARALLEL:
.PHONY: world results keep-world
world:
results:

STEPS :=
# $(call step,NAME,the steps that it needs,what is removed when it begins,the command)
define step
STEPS += $(1)
$(MADE)/$(1).begun: $(if $(ALONE),,$(addprefix $(MADE)/,$(2)))
	@mkdir -p $$(@D)
	$(if $(3),rm -rf $(3))
	@touch $$@
$(MADE)/$(1): $(MADE)/$(1).begun
	$(4)
	@touch $$@
endef

# A training refuses the folder of a finished model. When it begins, the marks of that go; if they are there again, it
# had come to its end, and only the stamp is missing.
marks = $(1)/training.json $(1)/checkpoint.safetensors
unless_trained = test -f $(1)/training.json ||

# ------------------------------------------------------------------------------------------------------------ models
$(eval $(call step,images,,,$(PY) -m $(WORLD_OF).make_images))
$(eval $(call step,hierarchy,images,,$(PY) -m $(WORLD_OF).make_hierarchy))
$(eval $(call step,count,images,,$(PY) -m $(WORLD_OF).count_images))
$(eval $(call step,clip-plain,,runs/emoji-clip,$(LAUNCH) -m $(WORLD_OF).pretrain_clip))
$(eval $(call step,clip,clip-plain,runs/emoji-clip-sketches,$(LAUNCH) -m $(WORLD_OF).pretrain_clip --sketches))
$(eval $(call step,teacher,,runs/emoji-teacher,$(LAUNCH) -m $(WORLD_OF).pretrain_clip --teacher))
$(eval $(call step,judge,,runs/emoji-judge,$(LAUNCH) -m $(WORLD_OF).pretrain_clip --teacher --seed 3 --output hub/emoji-judge))
$(eval $(call step,dino,,runs/emoji-dino,$(LAUNCH) -m $(WORLD_OF).pretrain_dino))
$(eval $(call step,autoencoder,,runs/emoji-autoencoder,$(LAUNCH) -m $(WORLD_OF).train_autoencoder))
$(eval $(call step,unclip,clip autoencoder,runs/emoji-unclip,$(LAUNCH) -m $(WORLD_OF).train_unclip))
$(eval $(call step,kl-autoencoder,,runs/emoji-kl-autoencoder,$(LAUNCH) -m $(WORLD_OF).train_autoencoder --kl))
$(eval $(call step,diffusion,clip kl-autoencoder,runs/emoji-diffusion,$(LAUNCH) -m $(WORLD_OF).train_diffusion))
$(eval $(call step,llava,clip,runs/emoji-llava,$(LAUNCH) -m $(WORLD_OF).train_llava))
$(eval $(call step,activations,clip,runs/emoji-activations,$(LAUNCH) training/extract_activations.py --recipe $(R)))
$(eval $(call step,sae,activations,$(call marks,hub/emoji-sae),$(call unless_trained,hub/emoji-sae) \
  $(LAUNCH) training/train_sae.py --recipe $(R) --resume))
$(eval $(call step,scores,sae teacher dino images hierarchy,runs/emoji-scores,$(LAUNCH) training/score_neurons.py --recipe $(R)))
$(eval $(call step,steerability,scores llava unclip,runs/emoji-scores/steered,$(LAUNCH) training/score_neurons.py --recipe $(R) --steer))
$(eval $(call step,pack,steerability,,$(PY) training/build_pack.py runs/emoji-scores --unclip hub/emoji-unclip))
$(eval $(call step,cbsae,pack activations teacher,$(call marks,hub/emoji-cbsae) runs/emoji-embeddings,$(call unless_trained,hub/emoji-cbsae) \
  $(LAUNCH) training/train_cbsae.py --recipe $(R) --resume))
WORLD := $(STEPS)

# ----------------------------------------------------------------------------------------------------------- figures
$(eval $(call step,metrics,clip teacher judge dino images,,$(PY) -m $(WORLD_OF).evaluate))
$(eval $(call step,llava-metrics,llava images,,$(PY) -m $(WORLD_OF).evaluate_llava))
$(eval $(call step,unclip-metrics,unclip judge images,,$(PY) -m $(WORLD_OF).evaluate_unclip --guidance 10 --guidance 2.5))
$(eval $(call step,diffusion-metrics,diffusion judge images,,$(PY) -m $(WORLD_OF).evaluate_diffusion))
$(eval $(call step,evaluation,cbsae judge,runs/emoji-evaluation,$(PY) training/evaluate.py --recipe $(R)))
$(eval $(call step,cbsae-pack,evaluation,,$(PY) training/build_pack.py runs/emoji-evaluation/seed-0/emoji-judge \
  --model hub/emoji-cbsae --unclip hub/emoji-unclip))
$(eval $(call step,uncertainty,evaluation,,$(PY) training/uncertainty.py --recipe $(R)))
$(eval $(call step,scores-100,scores,runs/emoji-scores-100,$(LAUNCH) training/score_neurons.py --recipe $(R) \
  --set top_k=100 --output runs/emoji-scores-100))
$(eval $(call step,sheets,cbsae,,$(PY) training/sheets.py --recipe $(R)))
$(eval $(call step,concepts,cbsae-pack judge,,$(PY) -m $(WORLD_OF).evaluate_concepts))
$(eval $(call step,insertion,scores llava,,$(PY) training/insertion.py --recipe $(R)))
$(eval $(call step,insertion-scenes,scores llava,,$(PY) training/insertion.py --recipe $(R) --set blanks=test --output runs/emoji-insertion-scenes))
$(eval $(call step,zero-shot,sae images,,$(PY) training/zero_shot_steering.py --recipe $(R)))
$(eval $(call step,sweep,clip dino images,runs/emoji-sweep,$(PY) training/sweep.py --recipe $(R)))
$(eval $(call step,layers,clip sae images,runs/emoji-layers,$(PY) -m training.layers --recipe $(R)))
$(eval $(call step,suppression,clip images,runs/emoji-suppression,$(PY) -m training.suppression --recipe $(R)))
$(eval $(call step,reader,clip,runs/emoji-clip-reader,$(LAUNCH) -m $(WORLD_OF).pretrain_clip --reader))
$(eval $(call step,typographic,reader images,runs/emoji-typographic runs/emoji-reader-sae,$(PY) -m training.typographic --recipe $(R)))
$(eval $(call step,ontology,clip images hierarchy,,$(PY) training/ontology.py --recipe $(R)))
$(eval $(call step,probing,clip dino images,,$(PY) training/probing.py --recipe $(R)))
$(eval $(call step,overlap,llava images,runs/emoji-language-saes runs/emoji-overlap,$(PY) training/overlap.py --recipe $(R)))
$(eval $(call step,pairs-images,,,$(PY) -m $(WORLD_OF).make_pairs))
$(eval $(call step,pairs,sae images pairs-images,,$(PY) training/pairs.py --recipe $(R)))
$(eval $(call step,controls,pack activations,runs/emoji-controls,$(PY) -m training.controls --recipe $(R)))
$(eval $(call step,dictionary,scores activations,runs/emoji-seeds,$(PY) -m training.dictionary --recipe $(R)))
$(eval $(call step,sanity,scores,,$(PY) -m training.sanity --recipe $(R)))
$(eval $(call step,names,scores judge llava,,$(PY) -m training.names --recipe $(R)))
$(eval $(call step,strengths,cbsae-pack,,$(PY) benchmarks/strengths.py --output benchmarks/results/strengths.json))
$(eval $(call step,verdicts,cbsae-pack,,$(PY) benchmarks/verdicts.py))
$(eval $(call step,add-concepts,cbsae-pack,,$(PY) benchmarks/add_concepts.py))
$(eval $(call step,chance,,,$(PY) benchmarks/chance_scores.py --output runs/benchmark-chance-scores.json))

# Olson et al., section 4: an SAE of the text encoder of emoji-diffusion, which is not shipped.
$(eval $(call step,text-activations,clip,runs/emoji-text-activations,$(LAUNCH) training/extract_activations.py --recipe $(W)))
$(eval $(call step,text-sae,text-activations,runs/emoji-text-sae,$(call unless_trained,runs/emoji-text-sae) \
  $(LAUNCH) training/train_sae.py --recipe $(W) --resume))
$(eval $(call step,text-words,text-sae images,runs/emoji-text-scores,$(PY) training/score_neurons.py --recipe $(W) --words))
$(eval $(call step,drawn-features,text-words diffusion llava judge,runs/emoji-drawn-features,$(PY) -m training.drawn_features --recipe $(W)))

# The second encoder of the CB-SAE paper's table 1: nothing of it is shipped but its figures.
$(eval $(call step,dino-llava,dino,runs/emoji-llava-dino-training,$(LAUNCH) -m $(WORLD_OF).train_llava --encoder hub/emoji-dino \
  --output runs/emoji-llava-dino --run runs/emoji-llava-dino-training))
$(eval $(call step,dino-llava-metrics,dino-llava images,,$(PY) -m $(WORLD_OF).evaluate_llava runs/emoji-llava-dino))
$(eval $(call step,dino-activations,dino,runs/emoji-dino-activations,$(LAUNCH) training/extract_activations.py --recipe $(D)))
$(eval $(call step,dino-sae,dino-activations,runs/emoji-dino-sae,$(call unless_trained,runs/emoji-dino-sae) \
  $(LAUNCH) training/train_sae.py --recipe $(D) --resume))
$(eval $(call step,dino-scores,dino-sae clip teacher images hierarchy,runs/emoji-dino-scores,$(LAUNCH) training/score_neurons.py --recipe $(D)))
$(eval $(call step,dino-steerability,dino-scores dino-llava,runs/emoji-dino-scores/steered,$(LAUNCH) training/score_neurons.py --recipe $(D) --steer))
$(eval $(call step,dino-cbsae,dino-steerability cbsae,runs/emoji-dino-cbsae,$(call unless_trained,runs/emoji-dino-cbsae) \
  $(LAUNCH) training/train_cbsae.py --recipe $(D) --resume))
$(eval $(call step,dino-evaluation,dino-cbsae judge,runs/emoji-dino-evaluation,$(PY) training/evaluate.py --recipe $(D)))

# ---------------------------------------------------------------------------------- cards, worked examples, pictures
$(eval $(call step,cards,count metrics llava-metrics unclip-metrics cbsae-pack,,$(PY) training/write_cards.py))
$(eval $(call step,examples-sae,pack,,$(PY) training/choose_examples.py hub/emoji-sae --llava hub/emoji-llava --unclip hub/emoji-unclip --recipe training/recipes/emoji.yaml))
$(eval $(call step,examples-cbsae,cbsae-pack,,$(PY) training/choose_examples.py hub/emoji-cbsae --llava hub/emoji-llava --unclip hub/emoji-unclip --recipe training/recipes/emoji.yaml))
$(eval $(call step,plots,steerability,,$(PY) training/plots.py runs/emoji-scores --output runs/emoji-plots))
$(eval $(call step,figures,plots evaluation sheets,,$(PY) docs/figures.py))
$(eval $(call step,tables,metrics unclip-metrics controls dictionary sanity names layers suppression typographic pairs ontology probing,,$(PY) docs/results_page.py))
$(eval $(call step,pages,cbsae-pack,,$(PY) docs/notebook.py))

world: $(addprefix $(MADE)/,$(WORLD))
results: $(addprefix $(MADE)/,$(STEPS))

# A rule for each name, and no pattern: make then says of another name that there is no such step.
$(foreach one,$(STEPS),$(eval results-$(one): $(MADE)/$(one)))
.PHONY: $(addprefix results-,$(STEPS)) $(addprefix keep-,$(STEPS))
$(addprefix keep-,$(STEPS)): keep-%:
	@mkdir -p $(MADE)
	touch $(MADE)/$*.begun $(MADE)/$*
keep-world: $(addprefix keep-,$(WORLD))
