#!/bin/sh
# Makes the "observed" data: one run of the model itself, with parameters and a seed that are written here only. No replicate
# of the study has this seed. Run it in this folder's parent: sh data/make.sh
python3 models/typhoid.py --seed 20260101 --years 10 --out data/incidence.csv \
    --params '{"beta": 0.6, "p_acute": 0.2, "immunity": 0.4, "carriers": 8, "season": "monsoon"}'
