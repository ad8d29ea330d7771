"""The dictionary keys of every sample in medkit, with axes, dtype and unit: the one table.

Axes: ``coil`` or channel first, then space in array order ``H, W`` and, for a volume, slices ``S`` last. A volume is
written ``[, S]``. No key begins with another key and an underscore, because MONAI 1.6 ``Spacingd`` treats such keys as
metadata of the shorter one.

=============  ==========================  =========  =================================================================
key            shape                       dtype      meaning and unit
=============  ==========================  =========  =================================================================
case           str                                    name of the examination
subject        str                                    whose examination it is: all of a subject are in one split
path           str                                    file it is read from
i_slice        int                                    index of the slice in the file, from 0
affine         (4, 4)                      float64    voxel indices to RAS millimetres
space_code     int                                    NIfTI's code of the space that ``affine`` leads to: 0
                                                      unknown (only the spacing counts), 1 scanner, 2 aligned,
                                                      3 Talairach, 4 MNI, 5 another template
magnitude      (1, H, W[, S])              float32    image without phase, arbitrary unit
recon_size     (2,)                        int64      height and width of the central part of the image that the scanner
                                                      keeps, without over-sampling; only where the file tells
kspace         (coil, H, W[, S])           complex64  centred k-space as acquired or simulated, arbitrary unit
measured       (coil, H, W[, S])           complex64  ``kspace`` times ``mask``
mask           (1, 1 or H, W[, 1])         bool       true where k-space was sampled, centred; in a dynamic exam, whose
                                                      frames stand where slices stand, ``(1, 1 or H, W, T)``
acceleration   ()                          float32    number of elements of ``mask`` for each one that is true
held_mask      (1, H, W[, 1])              bool       samples held back from ``mask``, for a self-supervised loss
held_measured  (coil, H, W[, S])           complex64  what was measured at ``held_mask``, which ``measured`` lacks
noise          (coil, samples)             complex64  scan without signal, unit of ``kspace``
sens_maps      (coil, H, W[, S])           complex64  coil sensitivities, sum of squared magnitudes 1 inside the body
zero_filled    (1, H, W[, S])              complex64  adjoint of the forward operator applied to ``measured``
reference      (1, H, W[, S])              complex64  coil-combined image of the fully sampled ``kspace``, by
                                                      ``sens_maps`` or by root sum of squares, then without phase
scale          ()                          float32    99.5th percentile of the magnitude of ``zero_filled``
image          (3 + 2 coil, H, W[, S])     float32    what a network takes: Re, Im of ``zero_filled`` / ``scale``, the
                                                      mask shifted so that frequency 0 is at index 0, then Re, Im of
                                                      each coil's sensitivity; 3 channels alone mean one uniform coil.
                                                      On request each coil's zero-filled image / ``scale`` instead
label          (4, H, W[, S])              float32    Re, Im of ``reference`` / ``scale``, then of ``zero_filled`` /
                                                      ``scale``: what to reach and what to leave
pred           (2, H, W[, S])              float32    Re, Im of the reconstruction / ``scale``
residual       dict[str, float]                       how far ``zero_filled`` and ``pred``, measured anew, are from
                                                      ``measured``, as a part of its norm, by their keys
lesions        (1, H, W[, S])              uint8      map of lesions, 0 where none is; the numbers are the source's, of
                                                      the cohort ``BrainCohort.LESION_LABELS``; before it is loaded a
                                                      str: its file
=============  ==========================  =========  =================================================================

Where samples are held back to train without a reference, there changes:

=============  ==========================  =========  =================================================================
label          (1 + 4 coil, H, W[, S])     float32    ``held_mask``, centred; Re, Im of each coil's ``held_measured`` /
                                                      ``scale``; Re, Im of each coil's sensitivity. Without
                                                      ``sens_maps`` (3, H, W[, S]): one uniform coil
=============  ==========================  =========  =================================================================

With n reference contrasts (of the same subject, fully sampled, to help to restore the target) there are, or change:

=============  ==========================  =========  =================================================================
guide          (n, H, W[, S])              float32    the reference contrasts, each in its own unit; before they are
                                                      loaded a str, or a list of them: their files
guide_contrasts                            list[str]  their names, as ``pair_list`` gives them: ``t1``, ``pd``
image          (3 + n + 2 coil, H, W[, S]) float32    as above, with ``guide`` behind the mask, each channel divided by
                                                      its own 99.5th percentile
label          (2 + n, H, W[, S])          float32    Re, Im of ``reference`` / ``scale``, then ``guide`` as in
                                                      ``image``: what to reach
pred           (6 + 3 n, H, W[, S])        float32    Re, Im of the restored target / ``scale``; ``guide`` synthesised
                                                      anew; Re, Im of the target's unique and of its common part; the
                                                      unique and the common parts of ``guide``
unique         (1 + n, H, W[, S])          float32    what the codes of each contrast alone added to it, target first,
                                                      in units of the images in ``image``; of the target in phase with
                                                      the result
common         (1 + n, H, W[, S])          float32    the same of the codes that the contrasts share
=============  ==========================  =========  =================================================================

In registration, of images ``(C, *S)`` on one grid, intensities 0 to 1, there are, or change:

=============  ==========================  =========  =================================================================
moving         (C, *S)                     float32    image of a subject
fixed          (C, *S)                     float32    what it is registered to: a template, or another subject
labels         (1, *S)                     uint8      tissue labels of a subject; before they are loaded a str: the file
seg_moving     (1, *S)                     float32    labels of ``moving``, whole numbers
seg_fixed      (1, *S)                     float32    labels of ``fixed``
i_moving       int                                    which subject of a list is ``moving``
i_fixed        int                                    which one is ``fixed``, where that is not drawn
image          (2 C, *S)                   float32    what a network takes: ``moving``, then ``fixed``
label          (2 C, *S)                   float32    the same, for the loss
pred           (D, *S)                     float32    stationary velocity in voxels, channel k along axis k: ``moving``
                                                      warped by its exponential resembles ``fixed``
=============  ==========================  =========  =================================================================

In denoising, of images ``(C, *S)``, there are, or change:

=============  ==========================  =========  =================================================================
sigma          ()                          float32    standard deviation of the noise, unit of ``image``; of complex
                                                      noise that of the real part; 0 where nobody tells
window         (2,)                        float64    intensities, unit of the file, that are 0 and 1 in ``image``
modality       str                                    ``"CT"`` or another of DICOM's, ``""`` where the file tells none
series_uid     str                                    of a DICOM series, whose folder is the ``path``
peak           ()                          float32    expected counts where ``image`` is 1
dose           ()                          float32    share of the full dose
unit_noise     as the noise needs it       float32    standard normal field that the noise is made from: the same one
                                                      at another level is the same noise, weaker or stronger
image          (C[ + 1], *S)               float32    noisy image, then on request a map of ``sigma``
label          (C, *S)                     float32    clean image, unit of ``image``; without one the noisy image, then
                                                      what the loss needs: a map of ``sigma``, or the blind spots
quieter        (C, *S)                     float32    the clean image with the same noise at another level
pred           (C, *S)                     float32    denoised image, unit of ``image``
=============  ==========================  =========  =================================================================

In classification, of pictures, there are, or change:

=============  ==========================  =========  =================================================================
image          (C, H, W)                   float32    picture, 0 to 1; before it is loaded a str, its file, or the array
label          () or (n_classes,)          int64 or   number of the class; where several hold at a time 0 and 1
                                           float32
pred           (n_classes,)                float32    logits
=============  ==========================  =========  =================================================================
"""

CASE = "case"
SUBJECT = "subject"
PATH = "path"
I_SLICE = "i_slice"
AFFINE = "affine"
SPACE_CODE = "space_code"
MAGNITUDE = "magnitude"
RECON_SIZE = "recon_size"
KSPACE = "kspace"
MEASURED = "measured"
MASK = "mask"
ACCELERATION = "acceleration"
HELD_MASK = "held_mask"
HELD_MEASURED = "held_measured"
NOISE = "noise"
SENS_MAPS = "sens_maps"
ZERO_FILLED = "zero_filled"
REFERENCE = "reference"
SCALE = "scale"
IMAGE = "image"
LABEL = "label"
PRED = "pred"
RESIDUAL = "residual"
LESIONS = "lesions"
GUIDE = "guide"
GUIDE_CONTRASTS = "guide_contrasts"
UNIQUE = "unique"
COMMON = "common"
MOVING = "moving"
FIXED = "fixed"
LABELS = "labels"
SEG_MOVING = "seg_moving"
SEG_FIXED = "seg_fixed"
I_MOVING = "i_moving"
I_FIXED = "i_fixed"
SIGMA = "sigma"
WINDOW = "window"
MODALITY = "modality"
SERIES_UID = "series_uid"
PEAK = "peak"
DOSE = "dose"
UNIT_NOISE = "unit_noise"
QUIETER = "quieter"
