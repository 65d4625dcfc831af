// Device code for the tests of the fatbin reader: one kernel, and padding that a compressor can work on.
__constant__ float table[256] = {1.0f};

extern "C" __global__ void scale(float *values, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) {
        values[i] *= table[i & 255];
    }
}
