"""Made label maps and images, from torch alone: street scenes, abstract shapes, and what streets look like."""
