"""Not part of the public interface: it changes without notice."""
