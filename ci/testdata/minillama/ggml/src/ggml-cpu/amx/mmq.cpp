// The lines of llama.cpp that one of the farm's patches changes: a pin must have them. Nothing compiles them here.
struct tile_config_t;

inline void ggml_tile_config_init(void) {
    tc.rows[6] = 16;  tc.colsb[6] = 64;
    tc.rows[7] = 16;  tc.colsb[7] = 64;

    _tile_loadconfig(&tc);
    done = true;
}
