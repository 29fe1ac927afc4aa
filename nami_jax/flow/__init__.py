"""The mathematics of progressive rectified flow: pure functions of arrays and a stage, without parameters.

Noise time runs from 1 (pure noise) to 0 (data). Arrays are NHWC. Read in this order: `stages` (the time windows),
`interpolant` (the training target), `times` (at which it is trained), `transition` (the jump between stages),
`schedule`, `solver` (with guidance).
"""
