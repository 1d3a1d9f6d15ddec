"""A synthetic NVML: its GPUs and readings are invented, none was captured on hardware."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

GIB = 2**30


class NvmlError(Exception):
    """Stands for pynvml.NVMLError."""


@dataclass
class Gpu:
    """A synthetic GPU or MIG slice. An answer that is None is "not supported"."""

    name: str = "NVIDIA H200"
    uuid: str | None = "GPU-11111111-aaaa"
    memory: int | None = 140 * GIB
    mig_mode: int | None = 0
    slices: list[Gpu] = field(default_factory=list)
    card: Gpu | None = None
    load: list[int] | None = field(default_factory=lambda: [0])
    clocks: dict[int, int] | None = field(default_factory=lambda: {1: 1980, 2: 3201})
    temperature: int | None = 41
    power_mw: int | None = 78_500
    reasons: int | None = 0
    old_reasons: int | None = None
    compute: list[SimpleNamespace] | None = field(default_factory=list)
    graphics: list[SimpleNamespace] | None = field(default_factory=list)
    shape: SimpleNamespace | None = None
    top_clock: int | None = 1980
    application_clock: int | None = 1980
    power_limit_mw: int | None = 700_000
    ecc: bool | None = True
    held_ns: dict[int, int] = field(default_factory=dict)  # NVML's counters, by field
    energy_mj: int | None = 0
    minor: int | None = None


def process(pid: int, gib: float | None) -> SimpleNamespace:
    return SimpleNamespace(pid=pid, usedGpuMemory=None if gib is None else int(gib * GIB))


def answer(value):
    if value is None:
        raise NvmlError("Not Supported")
    return value


class Nvml:
    """The functions of pynvml that `bench/machine` calls, over synthetic GPUs."""

    NVMLError = NvmlError
    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0
    NVML_FI_DEV_PERF_POLICY_POWER, NVML_FI_DEV_PERF_POLICY_THERMAL = 74, 75
    NVML_FI_DEV_CLOCKS_EVENT_REASON_SW_THERM_SLOWDOWN = 269
    NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_POWER_BRAKE_SLOWDOWN = 271

    def __init__(self, *gpus: Gpu, names: dict[int, str] | None = None):
        self.gpus, self.names = gpus, names or {}
        for gpu in gpus:
            for instance in gpu.slices:
                instance.card = gpu

    def nvmlDeviceGetCount(self):
        return len(self.gpus)

    def nvmlSystemGetDriverVersion(self):
        return "580.00.00"

    def nvmlSystemGetProcessName(self, pid):
        return answer(self.names.get(pid))

    def nvmlDeviceGetHandleByIndex(self, index):
        return self.gpus[index]

    def nvmlDeviceGetHandleByUUID(self, uuid):
        every = [device for gpu in self.gpus for device in (gpu, *gpu.slices)]
        return answer(next((device for device in every if device.uuid == uuid), None))

    def nvmlDeviceGetName(self, gpu):
        return answer(gpu.name)

    def nvmlDeviceGetUUID(self, gpu):
        return answer(gpu.uuid)

    def nvmlDeviceGetMemoryInfo(self, gpu):
        return SimpleNamespace(total=answer(gpu.memory))

    def nvmlDeviceGetCudaComputeCapability(self, gpu):
        return (9, 0)

    def nvmlDeviceGetMigMode(self, gpu):
        return [answer(gpu.mig_mode), 0]

    def nvmlDeviceGetMaxMigDeviceCount(self, gpu):
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, gpu, number):
        return answer(gpu.slices[number] if number < len(gpu.slices) else None)

    def nvmlDeviceIsMigDeviceHandle(self, gpu):
        return int(gpu.card is not None)

    def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, gpu):
        return answer(gpu.card)

    def nvmlDeviceGetAttributes_v2(self, gpu):
        return answer(gpu.shape)

    def nvmlDeviceGetUtilizationRates(self, gpu):
        loads = answer(gpu.load)
        return SimpleNamespace(gpu=loads.pop(0) if len(loads) > 1 else loads[0])

    def nvmlDeviceGetClockInfo(self, gpu, clock):
        return answer(gpu.clocks)[clock]

    def nvmlDeviceGetTemperature(self, gpu, sensor):
        return answer(gpu.temperature)

    def nvmlDeviceGetPowerUsage(self, gpu):
        return answer(gpu.power_mw)

    def nvmlDeviceGetCurrentClocksEventReasons(self, gpu):
        return answer(gpu.reasons)

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, gpu):
        return answer(gpu.old_reasons)

    def nvmlDeviceGetFieldValues(self, gpu, fields):
        return [
            SimpleNamespace(
                fieldId=field,
                nvmlReturn=0 if field in gpu.held_ns else 3,
                value=SimpleNamespace(ullVal=gpu.held_ns.get(field, 0)),
            )
            for field in fields
        ]

    def nvmlDeviceGetTotalEnergyConsumption(self, gpu):
        return answer(gpu.energy_mj)

    def nvmlDeviceGetEnforcedPowerLimit(self, gpu):
        return answer(gpu.power_limit_mw)

    def nvmlDeviceGetPowerManagementDefaultLimit(self, gpu):
        return answer(gpu.power_limit_mw) and 700_000

    def nvmlDeviceGetMaxClockInfo(self, gpu, clock):
        return answer(gpu.top_clock)

    def nvmlDeviceGetApplicationsClock(self, gpu, clock):
        return answer(gpu.application_clock)

    def nvmlDeviceGetDefaultApplicationsClock(self, gpu, clock):
        return answer(gpu.application_clock) and 1980

    def nvmlDeviceGetEccMode(self, gpu):
        return [answer(gpu.ecc), gpu.ecc]

    def nvmlDeviceGetPersistenceMode(self, gpu):
        return 1

    def nvmlDeviceGetMinorNumber(self, gpu):
        return answer(gpu.minor)

    def nvmlDeviceGetComputeRunningProcesses(self, gpu):
        return answer(gpu.compute)

    def nvmlDeviceGetGraphicsRunningProcesses(self, gpu):
        return answer(gpu.graphics)


def sliced_h200() -> Gpu:
    return Gpu(
        mig_mode=1,
        load=None,
        slices=[
            Gpu(name="NVIDIA H200 MIG 1g.18gb", uuid="MIG-aaaa", memory=16 * GIB, load=None),
            Gpu(name="NVIDIA H200 MIG 2g.35gb", uuid="MIG-bbbb", memory=33 * GIB, load=None),
        ],
    )
