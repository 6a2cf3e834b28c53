#!/bin/sh
# Times the models in this folder on an Android phone, with the runtimes' benchmark programs.
#
#     sh run.sh                        # after an interruption, run it again: complete rounds are kept
#     ROUNDS=30 BIG_CORES=80 sh run.sh
#
# Requires `adb` (Android's platform tools), a phone with USB debugging enabled, and these programs in bin/, built for
# the phone's processor (arm64-v8a), with the shared libraries they need:
#
@SOURCES@
#
# In every round each model runs once, in random order and in its own process, so that whatever warms or slows the phone
# affects all of them. Output goes to printed/<round>-<model>.txt, for `mnet.latency.import_results`.
# For steady clocks: battery charged, cable in, flight mode, screen off, case off; PAUSE=10 if the phone gets hot.
set -u
cd "$(dirname "$0")" || exit 1

ROUNDS=${ROUNDS:-@ROUNDS@}          # at most @ROUNDS@; an interval needs @MIN_ROUNDS@
RUNS=${RUNS:-@RUNS@}            # inferences per process
WARMUP=${WARMUP:-@WARMUP@}        # inferences before these, if the program can warm up
THREADS=${THREADS:-@THREADS@}
BIG_CORES=${BIG_CORES:-@BIG_CORES@}   # hexadecimal mask of the cores to run on: f0 = 4 to 7, 80 = only 7
PAUSE=${PAUSE:-1}           # seconds between two processes
REMOTE=${REMOTE:-/data/local/tmp/mnet}
# With several phones attached, set ANDROID_SERIAL to one that `adb devices` lists.

fail() { echo "error: $1" >&2; exit 1; }

# Run a command on the phone. Standard input is closed, or adb would consume this script's.
phone() { adb shell "$1" </dev/null 2>&1 | tr -d '\r'; }

for number in "$ROUNDS" "$RUNS" "$WARMUP" "$THREADS" "$PAUSE"; do
    case $number in '' | *[!0-9]*) fail "ROUNDS, RUNS, WARMUP, THREADS and PAUSE must be whole numbers, not '$number'" ;; esac
done
case $BIG_CORES in '' | *[!0-9a-fA-F]*) fail "BIG_CORES must be a hexadecimal mask such as f0, not '$BIG_CORES'" ;; esac
case $REMOTE in *[!a-zA-Z0-9/._-]* | '') fail "REMOTE must be a plain path, not '$REMOTE'" ;; esac

command -v adb >/dev/null || fail "adb is not installed; it is part of Android's platform tools"
adb start-server >/dev/null 2>&1
state=$(adb get-state 2>&1)
[ "$state" = device ] || fail "no phone is ready (adb: $state): enable USB debugging and accept this computer's key"
for binary in @BINARIES@; do
    [ -f "bin/$binary" ] || fail "bin/$binary is missing; the head of run.sh explains where to get it"
done

# Runs of different phones must not be mixed.
device="model=$(phone 'getprop ro.product.manufacturer') $(phone 'getprop ro.product.model')
soc=$(phone 'getprop ro.soc.model') $(phone 'getprop ro.board.platform')
android=$(phone 'getprop ro.build.version.release') $(phone 'getprop ro.build.id')
abi=$(phone 'getprop ro.product.cpu.abi')
big_cores=$BIG_CORES
threads=$THREADS
runs=$RUNS"
mkdir -p printed
if [ -f printed/device.txt ]; then
    [ "$device" = "$(cat printed/device.txt)" ] || fail "printed/ has results of another phone or setting; move it away first"
else
    printf '%s\n' "$device" >printed/device.txt
fi

# The clock is read from the highest core of the mask.
core=-1 bits=$((0x$BIG_CORES))
while [ "$bits" -gt 0 ]; do core=$((core + 1)) bits=$((bits / 2)); done
[ "$core" -ge 0 ] || fail "BIG_CORES=$BIG_CORES selects no core"

# One line: round, governor, frequency in kHz, battery in tenths of a degree, first thermal zone.
state_of_phone() {
    clock=/sys/devices/system/cpu/cpu$core/cpufreq
    echo "round=$1" "governor=$(phone "cat $clock/scaling_governor 2>/dev/null")" \
        "khz=$(phone "cat $clock/scaling_cur_freq 2>/dev/null")" \
        "battery=$(phone 'dumpsys battery' | sed -n 's/^ *temperature: *//p')" \
        "zone0=$(phone 'cat /sys/class/thermal/thermal_zone0/temp 2>/dev/null')" >>printed/state.txt
}

adb shell "mkdir -p $REMOTE/bin $REMOTE/models" </dev/null || fail "cannot write to $REMOTE on the phone"
adb push bin/. "$REMOTE/bin/" >/dev/null || fail "adb could not copy bin/ to the phone"
adb push models/. "$REMOTE/models/" >/dev/null || fail "adb could not copy models/ to the phone"
adb shell "chmod 755 $REMOTE/bin/*" </dev/null

# run MODEL: prints the output of its program, then the exit status.
run() {
    MODEL=$REMOTE/models/$1 LOG=
    case $1 in
@COMMANDS@
    esac
    [ -z "$LOG" ] || adb logcat -c </dev/null
    adb shell "cd $REMOTE && LD_LIBRARY_PATH=$REMOTE/bin taskset $BIG_CORES $REMOTE/bin/$COMMAND" </dev/null 2>&1
    status=$?
    [ -z "$LOG" ] || adb logcat -d -s "$LOG" </dev/null 2>&1 # ExecuTorch writes to the log on Android
    echo "exit status: $status"
}

round=0
while read -r models; do # one line per round, its models in random order
    round=$((round + 1))
    [ "$round" -le "$ROUNDS" ] || break
    [ ! -f "printed/$round-${models##* }.txt" ] || continue # its last model has run: the round is complete
    state_of_phone "$round"
    for model in $models; do
        run "$model" | tr -d '\r' >printed/.running
        [ "$(adb get-state 2>/dev/null)" = device ] || fail "the phone was disconnected in round $round; attach it and run this again"
        mv printed/.running "printed/$round-$model.txt"
        sleep "$PAUSE"
    done
    echo "round $round of $ROUNDS"
done <schedule.txt
state_of_phone end
echo "done; now: python experiments/latency_android.py --import=$PWD"
