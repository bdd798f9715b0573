/* Which parameters train and which decay: POSIX extended regular expressions over HuggingFace names and MaxText paths. */
#ifndef HD_MODEL_MASKS_H
#define HD_MODEL_MASKS_H

#include "model/model.h"

/* Sets trained and decay of every parameter.  A pattern searches, as in MaxText; it matches a parameter when it matches its
 * HuggingFace name, the name of each of its experts, or its MaxText path.  HD_E_CONFIG for a pattern that does not compile, one
 * that matches nothing, and one that selects some experts of a layer: they are one parameter here. */
hd_status hd_masks_apply(hd_model *model, hd_err *err) HD_CHECK_RESULT;

#endif
