WITH revenue AS (
    SELECT p.id, p.sku, c.path AS category, s.name AS supplier, sum(l.qty * l.unit_price * (1 - l.discount)) AS revenue
      FROM sales_order o
      JOIN sales_order_line l ON l.order_id = o.id
      JOIN product p ON p.id = l.product_id
      JOIN category c ON c.id = p.category_id
      JOIN supplier s ON s.id = p.supplier_id
     WHERE o.status <> 'cancelled'
     GROUP BY p.id, c.path, s.name),
ranked AS (
    SELECT *, sum(revenue) OVER (ORDER BY revenue DESC, id) AS running, sum(revenue) OVER () AS total FROM revenue)
SELECT id, sku, category, supplier, revenue
  FROM ranked
 WHERE running - revenue < total * :share::int / 100
 ORDER BY revenue DESC, id
 LIMIT 200
